"""Commands that evaluate the method on public data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.terminal import exit_on_error, load_settings, open_console, show_status
from reaseq.errors import ReaSeqError

if TYPE_CHECKING:
    from pipelines.evaluation import DataSets, Report

app = typer.Typer(no_args_is_help=True)

BEAUTY, MIND, RESULTS = Path("data/amazon_beauty"), Path("data/mind_small"), Path("benchmarks/results")

Data = Annotated[str, typer.Argument(metavar="DATA", help="Data set: online-retail (bundled) or amazon-beauty.")]
RankingData = Annotated[str, typer.Argument(metavar="DATA", help="Data set: online-retail (bundled), amazon-beauty or mind.")]
LeaveOneOutData = Annotated[str, typer.Argument(metavar="DATA", help="Data set: amazon-beauty.")]
Folder = Annotated[Path | None, typer.Option(help=f"Directory of the data set's parquet files; by default {BEAUTY} or {MIND}.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds.")]
Out = Annotated[Path, typer.Option(help="Directory of the reports.")]


@app.command()
def inferred(data: Data = "online-retail", folder: Folder = None, seeds: Seeds = 3, out: Out = RESULTS) -> None:
    """Evaluate inferred behaviors: recall of items new to the user. A stopped run resumes after the last finished seed."""

    from evaluation.behavior_recall import RecallEvaluation
    from pipelines.evaluation import evaluate_inferred, write_report

    console, path = open_console(), out / f"inferred_{data.replace('-', '_')}.json"
    with exit_on_error():
        with show_status("reading and encoding"):
            sets = _data_sets(folder)
            evaluation = RecallEvaluation(sets.load(data))
        console.print(f"{len(evaluation.test)} test baskets")
        write_report(evaluate_inferred(evaluation, data, seeds, sets.cache, console.print), path)
    console.print(f"written: {path}")


@app.command()
def ranking(data: RankingData = "online-retail", folder: Folder = None, seeds: Seeds = 3, out: Out = RESULTS) -> None:
    """Evaluate what each input adds to the ranker. A stopped run resumes after the last finished variant."""

    from evaluation.ranking import RankingEvaluation
    from pipelines.evaluation import evaluate_ranking, merge_report

    console, path = open_console(), out / "evaluation.json"
    with exit_on_error():
        with show_status("reading and encoding"):
            sets = _data_sets(folder)
            evaluation = RankingEvaluation(sets.load_ranking(data))
        report = evaluate_ranking(evaluation, data, seeds, sets.cache, console.print)
        merge_report(data.replace("-", "_"), report, path)
    console.print(f"written: {path}")


@app.command()
def baskets(
    validation: Annotated[bool, typer.Option(help="Rank the two weeks before, on which everything was chosen.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the trained models.")] = 0,
    out: Out = RESULTS,
) -> None:
    """Rank every product on sale before each basket of Online Retail's last two weeks, the demo's task, by ranker and peers.

    Needs the development dependencies, for LightGBM and implicit.
    """
    from pipelines.evaluation import write_report

    console, path = open_console(), out / ("baskets_validation.json" if validation else "baskets.json")
    with exit_on_error():
        sets = _data_sets(None)
        report = _evaluate_baskets(sets, validation, seed, console.print)
        write_report(report, path)
    console.print(f"written: {path}")


@app.command()
def leave_one_out(data: LeaveOneOutData = "amazon-beauty", folder: Folder = None, seeds: Seeds = 3, out: Out = RESULTS) -> None:
    """Rank the whole catalog by leave-one-out, as papers do. The report is written anew after each entry of the table."""
    from pipelines.evaluation import evaluate_leave_one_out

    console, path = open_console(), out / "leave_one_out.json"
    with exit_on_error():
        with show_status("reading and encoding"):
            experiment = _data_sets(folder).load_leave_one_out(data)
        evaluate_leave_one_out(experiment, seeds, path, console.print)
    console.print(f"written: {path}")


@app.command()
def representation(data: Data = "online-retail", folder: Folder = None, seeds: Seeds = 3, out: Out = RESULTS) -> None:
    """Evaluate the alignment head by the recall of its neighbors, and codebooks of several shapes by their quality."""

    from evaluation.representation import evaluate_representation
    from pipelines.evaluation import write_report

    console, path = open_console(), out / f"representation_{data.replace('-', '_')}.json"
    with exit_on_error():
        with show_status("reading and encoding"):
            experiment = _data_sets(folder).load(data)
        write_report(evaluate_representation(experiment, seeds, console.print), path)
    console.print(f"written: {path}")


def _evaluate_baskets(sets: "DataSets", validation: bool, seed: int, report: "Report") -> dict[str, Any]:
    try:
        from evaluation.experiments import baskets as experiments
    except ModuleNotFoundError as error:
        raise ReaSeqError(f"{error.name} is not installed: run `make .venv/dev`") from error
    from evaluation.basket_report import build_report

    experiment = experiments.load(sets.order_lines, sets.answers, sets.encoder, sets.cache, validation)
    return build_report(experiments.run(experiment, seed, report), experiments.RANKER, experiments.PEERS)


def _data_sets(folder: Path | None) -> "DataSets":
    import torch

    from demo import ANSWERS, ORDER_LINES
    from pipelines.evaluation import DataSets
    from reaseq.representation.encoder import Encoder

    settings = load_settings()
    torch.set_num_threads(settings.worker.threads)
    cache = settings.state_dir / "evaluation"
    return DataSets(ORDER_LINES, ANSWERS, folder or BEAUTY, folder or MIND, Encoder(settings.encoder), cache)
