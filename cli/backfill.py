"""Commands that send catalogs and event logs from files to the topics."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import exit_on_error, load_production_settings
from reaseq.days import time_ms
from reaseq.records import TIME_LIMIT_MS

if TYPE_CHECKING:
    from streams.operations.source_file import SourceFile

app = typer.Typer(no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Parquet, or CSV with a header line.")]
Columns = Annotated[
    list[str], typer.Option("--column", metavar="FIELD=COLUMN", help="The file's column for a field; may be repeated.")
]
Listed = Annotated[
    str,
    typer.Option(
        metavar="YYYY-MM-DD", help="Listing date of items without an event time; by default, the file's modification time."
    ),
]
Until = Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="Send only events before this day.")]
Rate = Annotated[float, typer.Option("--rate", min=1, help="Maximum number of rows per second.")]


@app.command()
def items(file: File, column: Columns = [], listed: Listed = "", rate: Rate = 500.0) -> None:  # noqa: B006  typer copies it
    """Send a catalog. Columns: item_id, title; optionally price, seller_id, event_time; all others become attributes."""
    from streams.operations.catalog_file import CatalogFile

    with exit_on_error():
        _send(CatalogFile(file, parse_columns(column), time_ms(listed) if listed else None), rate)


@app.command()
def events(file: File, column: Columns = [], until: Until = "", rate: Rate = 2000.0) -> None:  # noqa: B006
    """Send an event log. Columns: user_id, item_id, event_time (a date; or event_time_s, event_time_ms); optionally type,
    quantity, event_id.

    Events are sent in order of event time, whatever the order of the file. A later call continues after --until.
    """
    from streams.operations.event_log_file import EventLogFile

    with exit_on_error():
        _send(EventLogFile(file, parse_columns(column), time_ms(until) if until else TIME_LIMIT_MS), rate)


def _send(source: "SourceFile", rate: float) -> None:
    from rich.progress import Progress

    from streams.operations.backfill import backfill
    from streams.runtime.kafka.producer import Producer

    settings, rows = load_production_settings(), len(source)
    with Progress() as progress:
        task = progress.add_task(source.topic.name, total=rows)
        producer = Producer(settings.kafka)
        progress_file = settings.state_dir / "backfill" / f"{source.identity}.json"
        produced = backfill(source, producer, progress_file, rate, lambda count: progress.advance(task, count))
        producer.close()
    earlier = "; an earlier run sent the rest" if produced < rows else ""
    typer.echo(f"produced {produced} of {rows} {source.topic.name}{earlier}")


def parse_columns(options: list[str]) -> dict[str, str]:
    """The file's column for each field, from FIELD=COLUMN options."""
    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise typer.BadParameter(f"--column {wrong[0]!r} is not of the form FIELD=COLUMN")
    return dict(option.split("=", 1) for option in options)
