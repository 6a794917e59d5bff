"""Commands about the features in the store: are they what the topics say, and what training is told?"""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import clear_errors, present_settings, production_settings, table_of

if TYPE_CHECKING:
    from features.repository import FeatureRepository
    from reaseq.settings import Settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def features_command() -> None:
    """Look at features as they were served."""


@app.command()
def parity(
    log: Annotated[
        Path | None, typer.Option(help="Folder of the service's log; without it, the one in the state folder.")
    ] = None,
    metrics: Annotated[Path | None, typer.Option(help="Also write them here, for Prometheus' textfile collector.")] = None,
) -> None:
    """Hold the rows that the service logged against the point-in-time join of the archive, feature by feature."""
    from rich.console import Console

    from features.parity import compare, read_served_features, write_metrics
    from features.repository import FeatureRepository

    settings, console = present_settings(), Console()
    with clear_errors():
        served = read_served_features(log or settings.served_features_dir)
        with console.status(f"joining {len(served)} served rows"):
            found = compare(FeatureRepository(settings), served)
        if metrics:
            write_metrics(found, metrics)
        results = sorted({result for counts in found.results.values() for result in counts})
        rows = [(name, *(counts[result] for result in results)) for name, counts in found.results.items()]
        console.print(table_of(f"{found.rows} served rows beside the point-in-time join", ("feature", *results), rows))
        for difference in found.different[:10]:
            console.print(f"different: {difference}")
    raise typer.Exit(1 if found.different else 0)


@app.command()
def rebuild(
    rate: Annotated[float, typer.Option("--rate", min=1, help="Records a second at most.")] = float("inf"),
) -> None:
    """Fill the online store from the topics. Readers and workers may go on: what is newer stays."""
    from features.repository import FeatureRepository

    settings = production_settings()
    with clear_errors():
        filled(settings, FeatureRepository(settings), rate)


@app.command()
def reconcile(
    records: Annotated[int, typer.Option(min=1, help="How many records of each topic to look at, about.")] = 1000,
) -> None:
    """Hold a sample of the topics against the online store, and write again what it lost; status 1 where it differs."""
    from rich.console import Console

    from features.repository import FeatureRepository
    from streams.operations.reconcile import reconcile as compare

    settings = production_settings()
    with clear_errors():
        found = compare(settings, FeatureRepository(settings), records, random.Random())  # noqa: S311  no secret
    results = ("equal", "ahead", "behind", "different")
    rows = [(topic, *(counts[result] for result in results)) for topic, counts in found.items()]
    Console().print(table_of("the store beside the topics", ("topic", *results), rows))
    raise typer.Exit(1 if any(of["behind"] or of["different"] for of in found.values()) else 0)


def filled(settings: "Settings", store: "FeatureRepository", rate_records_per_s: float) -> None:
    """Fill the store, with a progress bar."""
    from rich.progress import Progress

    from streams.operations.rebuild import rebuild as fill
    from streams.operations.rebuild import records_to_read

    with Progress() as progress:
        task = progress.add_task("rebuilding the store", total=records_to_read(settings))
        counts = fill(settings, store, rate_records_per_s, lambda written: progress.advance(task, written))
    rejected = f"; {counts['rejected']} rejected, see the log" if counts["rejected"] else ""
    typer.echo(f"{counts['written']} records of the topics are in the store{rejected}")


@app.command()
def compact() -> None:
    """ScorerFactory few files of the archive's many, with one of each row. Readers and workers may go on."""
    from features.archive import Archive
    from reaseq.knowledge.vocabulary import load_vocabulary

    with clear_errors():
        settings = present_settings()
        archive = Archive(settings.archive_dir, load_vocabulary(settings.knowledge.vocabulary))
        replaced = archive.compact(least_files=2)
    typer.echo(f"{replaced} files replaced; they go with the next compaction, once whoever reads them must be done")
