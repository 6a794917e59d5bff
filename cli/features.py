"""Commands that list the features, rebuild the online store and audit what is in it."""

import random
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import (
    build_table,
    exit_on_error,
    load_production_settings,
    load_settings,
    open_console,
    open_progress,
    show_status,
)
from reaseq.plain_text import plain

if TYPE_CHECKING:
    from features.repository import FeatureRepository
    from reaseq.settings import Settings

app = typer.Typer(no_args_is_help=True)

SHOWN_DIFFERENCES = 10


@app.command("list")
def list_features(
    coverage: Annotated[bool, typer.Option("--coverage", help="Also read all items: how many have each attribute.")] = False,
) -> None:
    """List the declared features, and whether the current ranker reads them; then the views that every system has."""
    from features.definitions import VIEWS
    from pipelines.declared import describe_attributes
    from reaseq.declaration import load_declaration

    settings, console = load_settings(), open_console()
    with exit_on_error():
        declaration = load_declaration(settings.declaration_file)
        declared = describe_attributes(declaration.item_attributes, settings, coverage)
    columns = ("attribute", "kind", "values", "if missing", "ranker reads it", "items with it")
    rows = [(about.name, about.kind, about.details, about.if_missing, about.read, about.coverage) for about in declared]
    kept = len(columns) if coverage else -1
    if declared:
        title = f"attributes of items, declared in {settings.declaration_file}"
        console.print(build_table(title, columns[:kept], [row[:kept] for row in rows]))
    else:
        console.print("no attributes are declared: `reaseq init` writes an example of a declaration")
    kept_by_item = [
        (
            about.name,
            about.function,
            " / ".join(", ".join(types) for types in (about.event_types, about.over) if types),
            span.feature,
        )
        for about in declaration.kept_aggregates
        for span in about.spans
    ]
    console.print(build_table("aggregates of items", ("aggregate", "function", "events", "feature"), kept_by_item))
    views = [(view.name, view.entities[0], ", ".join(field.name for field in view.features)) for view in VIEWS]
    console.print(build_table("stored for every item and user", ("view", "entity", "features"), views))


@app.command("aggregates")
def show_aggregates(item_ids: Annotated[list[str], typer.Argument(metavar="ITEM...", show_default=False)]) -> None:
    """Show the aggregates of items as of now."""
    from features.aggregate_values import read_aggregate_values
    from features.repository import FeatureRepository
    from reaseq.declaration import load_declaration

    settings, console = load_settings(), open_console()
    with exit_on_error():
        kept = load_declaration(settings.declaration_file).kept_aggregates
        values = read_aggregate_values(FeatureRepository(settings), kept, item_ids, int(time.time() * 1000))
    features = list(dict.fromkeys(name for of_item in values.values() for name in of_item))
    rows = [(name, *(f"{values[item_id][name]:g}" for item_id in values)) for name in features]
    console.print(build_table("aggregates of items", ("feature", *(plain(item_id) for item_id in values)), rows))


@app.command()
def parity(
    log: Annotated[
        Path | None, typer.Option(help="Directory of the served-feature log; by default, the one in the state directory.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="Also write metrics to this file, for node_exporter's textfile collector.")
    ] = None,
) -> None:
    """Compare served features with the archive's point-in-time join, feature by feature. Exits with status 1 if any differ."""

    from features.parity import compare, read_served_features, write_metrics
    from features.repository import FeatureRepository

    settings, console = load_settings(), open_console()
    with exit_on_error():
        served = read_served_features(log or settings.served_features_dir)
        with show_status(f"joining {len(served)} served rows"):
            found = compare(FeatureRepository(settings), served)
        if metrics:
            write_metrics(found, metrics)
        results = sorted({result for counts in found.results.values() for result in counts})
        rows = [(name, *(counts[result] for result in results)) for name, counts in found.results.items()]
        console.print(build_table(f"{found.rows} served rows vs. the point-in-time join", ("feature", *results), rows))
        for difference in found.different[:SHOWN_DIFFERENCES]:
            console.print(f"different: {plain(difference)}")
        if not served:
            console.print("nothing was served: set REASEQ_SERVICE__SERVED_FEATURE_LOG_SHARE above 0 and send requests")
    raise typer.Exit(1 if found.different else 0)


@app.command()
def rebuild(
    rate: Annotated[float, typer.Option("--rate", min=1, help="Maximum number of records per second.")] = float("inf"),
) -> None:
    """Fill the online store from the topics. Readers and workers may keep running; newer rows are not overwritten.

    With REASEQ_STORE__REPLACED_REDIS_URL, move to this store from that one: it is closed to writers before the end.
    """
    from features.repository import FeatureRepository

    settings = load_production_settings()
    with exit_on_error():
        fill_store(settings, FeatureRepository(settings), rate)


@app.command()
def reconcile(
    records: Annotated[int, typer.Option(min=1, help="Approximate number of records to sample from each topic.")] = 1000,
) -> None:
    """Compare sampled topic records with the online store and rewrite lost rows. Exits with 1 if any were lost or differ."""

    from features.repository import FeatureRepository
    from streams.operations.reconcile import reconcile as compare

    settings = load_production_settings()
    with exit_on_error():
        found = compare(settings, FeatureRepository(settings), records, random.Random())  # noqa: S311  no secret
    results = ("equal", "ahead", "behind", "different")
    rows = [(topic, *(counts[result] for result in results)) for topic, counts in found.items()]
    open_console().print(build_table("the store compared with the topics", ("topic", *results), rows))
    raise typer.Exit(1 if any(counts["behind"] or counts["different"] for counts in found.values()) else 0)


@app.command()
def compact() -> None:
    """Merge the archive's small files and drop duplicate rows. Readers and workers may keep running."""
    from features.archive import Archive
    from reaseq.knowledge.vocabulary import load_vocabulary

    with exit_on_error():
        settings = load_settings()
        archive = Archive(settings.archive_dir, load_vocabulary(settings.knowledge.vocabulary))
        replaced = archive.compact(min_files=2)
    typer.echo(f"{replaced} files replaced; a later compaction deletes them, once no reader can still use them")


def fill_store(
    settings: "Settings",
    store: "FeatureRepository",
    rate_records_per_s: float = float("inf"),
    shards: Collection[int] | None = None,
) -> None:
    """Rebuild the store, or some of its shards, with a progress bar."""
    from streams.operations.rebuild import rebuild as fill
    from streams.operations.rebuild import records_to_read

    with open_progress() as progress:
        task = progress.add_task("rebuilding the store", total=records_to_read(settings))
        counts = fill(settings, store, rate_records_per_s, lambda read: progress.advance(task, read), shards)
    rejected = f"; {counts['rejected']} rejected, see the log" if counts["rejected"] else ""
    typer.echo(f"{counts['written']} records written to the store{rejected}")
