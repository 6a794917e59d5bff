"""Commands that send a shop's own files through the topics."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import clear_errors, production_settings
from reaseq.days import time_ms
from reaseq.records import TIME_LIMIT_MS

if TYPE_CHECKING:
    from streams.operations.backfill import SourceFile

app = typer.Typer(no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Parquet, or CSV with a line of names.")]
Named = Annotated[list[str], typer.Option("--column", metavar="FIELD=COLUMN", help="What the file calls a field; repeat.")]
Listed = Annotated[
    str,
    typer.Option(metavar="YYYY-MM-DD", help="Since when items without an event time are listed; else: the file's own time."),
]
Until = Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="Only what happened before this day.")]
Rate = Annotated[float, typer.Option("--rate", min=1, help="Rows a second at most.")]


@app.command()
def items(file: File, column: Named = [], listed: Listed = "", rate: Rate = 500.0) -> None:  # noqa: B006  typer copies it
    """Send a catalog: item_id, title; price, seller_id, event_time; further columns are attributes."""
    from streams.operations.backfill import CatalogFile

    with clear_errors():
        _send(CatalogFile(file, _names(column), time_ms(listed) if listed else None), rate)


@app.command()
def events(file: File, column: Named = [], until: Until = "", rate: Rate = 2000.0) -> None:  # noqa: B006
    """Send a log: user_id, item_id, event_time (a date; event_time_s, event_time_ms); type, quantity, event_id.

    In order of event time, whatever the file's order is. With --until it stops there, and a later call goes on.
    """
    from streams.operations.backfill import EventLogFile

    with clear_errors():
        _send(EventLogFile(file, _names(column), time_ms(until) if until else TIME_LIMIT_MS), rate)


def _send(table: "SourceFile", rate: float) -> None:
    from rich.progress import Progress

    from streams.operations.backfill import backfill
    from streams.runtime.kafka_clients import Producer

    settings, rows = production_settings(), len(table)
    with Progress() as progress:
        task = progress.add_task(table.topic.name, total=rows)
        producer = Producer(settings.kafka)
        state = settings.state_dir / "backfill" / f"{table.identity}.json"
        produced = backfill(table, producer, state, rate, lambda count: progress.advance(task, count))
        producer.close()
    before = "; the rest had been before" if produced < rows else ""
    typer.echo(f"produced {produced} of {rows} {table.topic.name}{before}")


def _names(options: list[str]) -> dict[str, str]:
    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r}: say --column FIELD=COLUMN")
    return dict(option.split("=", 1) for option in options)
