"""Commands that judge the method on public data."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.terminal import clear_errors, present_settings

if TYPE_CHECKING:
    from evaluation.experiments import Experiment
    from evaluation.ranking import RankingExperiment
    from reaseq.representation.encoder import Encoder

app = typer.Typer(no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Judge the method on public data."""


Data = Annotated[str, typer.Argument(metavar="DATA", help="online-retail (bundled) or amazon-beauty.")]
Folder = Annotated[Path, typer.Option(help="Where amazon-beauty's two parquet files are.")]
Seeds = Annotated[int, typer.Option(min=1)]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]

RankingData = Annotated[str, typer.Argument(metavar="DATA", help="online-retail (bundled), amazon-beauty or mind.")]

BEAUTY, MIND, RESULTS = Path("data/amazon_beauty"), Path("data/mind_small"), Path("benchmarks/results")


@app.command()
def inferred(data: Data = "online-retail", folder: Folder = BEAUTY, seeds: Seeds = 3, out: Out = RESULTS) -> None:
    """Judge inferred behaviors: recall of what was new, and what they add to the ranker. Stopped, it goes on after its last
    whole seed."""
    from rich.console import Console

    from evaluation.inferred import Evaluation, load_outcome, report, save_outcome

    settings, console = present_settings(), Console()
    with clear_errors():
        with console.status("reading and encoding"):
            evaluation = Evaluation(_experiment(data, folder))
        console.print(f"{len(evaluation.test)} baskets to judge on")
        outcomes = []
        for seed in range(seeds):
            kept = settings.state_dir / "evaluation" / f"inferred-{data}-{seed}.npz"
            if not kept.exists():
                console.print(f"seed {seed}")
                save_outcome(evaluation.run(seed, console.print), kept)
            outcomes.append(load_outcome(kept))
        written = _write(report(evaluation, outcomes), out / f"inferred_{data.replace('-', '_')}.json")
    console.print(f"written: {written}")


@app.command()
def ranking(
    data: RankingData = "online-retail",
    folder: Annotated[Path | None, typer.Option(help="Where the parquet files of the data set are.")] = None,
    seeds: Seeds = 3,
    out: Out = RESULTS,
) -> None:
    """Judge what each thing that the ranker reads is worth. Stopped, it goes on after the last variant that it judged."""
    from functools import partial

    from rich.console import Console

    from evaluation.ranking import RankingEvaluation, load_outcome, save_outcome
    from evaluation.ranking_report import report

    settings, console = present_settings(), Console()
    with clear_errors():
        with console.status("reading and encoding"):
            evaluation = RankingEvaluation(_ranking_experiment(data, folder))
        outcomes = []
        for seed in range(seeds):
            kept = settings.state_dir / "evaluation" / f"ranking-{data}-{seed}.npz"
            console.print(f"{data}, seed {seed}")
            known = load_outcome(kept) if kept.exists() else {}
            outcomes.append(evaluation.run(seed, console.print, known, partial(save_outcome, path=kept)))
        with console.status("intervals"):
            found = report(evaluation.experiment, outcomes)
        written = out / "evaluation.json"
        held = json.loads(written.read_text()) if written.exists() else {}
        _write({**held, data.replace("-", "_"): found}, written)
    console.print(f"written: {written}")


@app.command()
def representation(data: Data = "online-retail", folder: Folder = BEAUTY, seeds: Seeds = 3, out: Out = RESULTS) -> None:
    """Judge the alignment head by what its neighbors recall, and codebooks of several shapes by how they write items."""
    from rich.console import Console

    from evaluation.representation import judge

    console = Console()
    with clear_errors():
        with console.status("reading and encoding"):
            experiment = _experiment(data, folder)
        written = _write(judge(experiment, seeds, console.print), out / f"representation_{data.replace('-', '_')}.json")
    console.print(f"written: {written}")


def _experiment(data: str, folder: Path) -> "Experiment":
    from demo import ANSWERS, ORDER_LINES
    from evaluation.experiments import beauty_experiment, retail_experiment
    from reaseq.errors import ReaSeqError

    encoder, cache = _encoder_and_cache()
    if data == "online-retail":
        return retail_experiment(ORDER_LINES, ANSWERS, encoder, cache)
    if data != "amazon-beauty":
        raise ReaSeqError(f"no data set {data!r}; there are online-retail and amazon-beauty")
    _require(folder / "interactions.parquet")
    return beauty_experiment(folder, encoder, cache)


def _ranking_experiment(data: str, folder: Path | None) -> "RankingExperiment":
    from demo import ANSWERS, ORDER_LINES
    from evaluation.experiments import LONG_HISTORY, beauty_experiment, rank_beauty, rank_mind, rank_retail, retail_experiment
    from reaseq.errors import ReaSeqError

    encoder, cache = _encoder_and_cache()
    match data:
        case "online-retail":
            return rank_retail(retail_experiment(ORDER_LINES, ANSWERS, encoder, cache, LONG_HISTORY), encoder)
        case "amazon-beauty":
            _require((folder or BEAUTY) / "interactions.parquet")
            return rank_beauty(beauty_experiment(folder or BEAUTY, encoder, cache), encoder)
        case "mind":
            _require((folder or MIND) / "impressions_test.parquet")
            return rank_mind(folder or MIND, encoder, cache)
    raise ReaSeqError(f"no data set {data!r}; there are online-retail, amazon-beauty and mind")


def _encoder_and_cache() -> "tuple[Encoder, Path]":
    import torch

    from reaseq.representation.encoder import Encoder

    settings = present_settings()
    torch.set_num_threads(settings.worker.threads)
    return Encoder(settings.encoder), settings.state_dir / "evaluation"


def _require(file: Path) -> None:
    from reaseq.errors import ReaSeqError

    if not file.exists():
        raise ReaSeqError(f"{file.parent} does not hold {file.name}: name the data set's folder with --folder")


def _write(found: dict[str, Any], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path
