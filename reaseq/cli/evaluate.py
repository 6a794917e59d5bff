"""Commands that judge the method on public data."""

from pathlib import Path
from typing import Annotated

import typer

from reaseq.cli.console import clear_errors, present_settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Judge the method on public data."""


@app.command()
def inferred(
    data: Annotated[str, typer.Argument(metavar="DATA", help="online-retail (bundled) or amazon-beauty.")] = "online-retail",
    folder: Annotated[Path, typer.Option(help="Where amazon-beauty's two parquet files are.")] = Path("data/amazon_beauty"),
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("benchmarks/results"),
) -> None:
    """Judge inferred behaviours: recall of what was new, and what they add to the ranker. Stopped, it goes on after its last
    whole seed."""
    import json

    import torch
    from rich.console import Console

    from demo import ANSWERS, ORDER_LINES
    from reaseq.errors import ReaSeqError
    from reaseq.evaluation.inferred import Evaluation, load_outcome, report, save_outcome
    from reaseq.evaluation.studies import beauty_study, retail_study
    from reaseq.representation.encoder import Encoder

    settings, console = present_settings(), Console()
    torch.set_num_threads(settings.worker.threads)
    cache = settings.state_dir / "evaluation"
    with clear_errors():
        if data not in ("online-retail", "amazon-beauty"):
            raise ReaSeqError(f"no data set {data!r}; there are online-retail and amazon-beauty")
        if data == "amazon-beauty" and not (folder / "interactions.parquet").exists():
            raise ReaSeqError(f"{folder} does not hold interactions.parquet and items.parquet: name it with --folder")
        with console.status("reading and encoding"):
            encoder = Encoder(settings.encoder)
            study = (
                retail_study(ORDER_LINES, ANSWERS, encoder, cache)
                if data == "online-retail"
                else beauty_study(folder, encoder, cache)
            )
            evaluation = Evaluation(study)
        console.print(f"{len(evaluation.train)} baskets to train rankers on, {len(evaluation.test)} to judge on")
        outcomes = []
        for seed in range(seeds):
            kept = cache / f"inferred-{data}-{seed}.npz"
            if not kept.exists():
                console.print(f"seed {seed}")
                save_outcome(evaluation.run(seed, console.print), kept)
            outcomes.append(load_outcome(kept))
        found = report(evaluation, outcomes)
        out.mkdir(parents=True, exist_ok=True)
        written = out / f"inferred_{data.replace('-', '_')}.json"
        written.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written: {written}")
