"""Commands that send catalogs and event logs from files to the topics."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import build_table, exit_on_error, load_production_settings, open_console, open_progress, show_status
from reaseq.days import time_ms
from reaseq.records import TIME_LIMIT_MS

if TYPE_CHECKING:
    from reaseq.settings import Settings
    from streams.sources.report import Report
    from streams.sources.source_file import ReadOptions, SourceFile

app = typer.Typer(no_args_is_help=True)

STATUS_REFUSED = 3  # everything else was sent

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="CSV, JSON lines, parquet, Arrow or ORC, may be compressed; or a folder of such files."
    ),
]
Columns = Annotated[
    list[str], typer.Option("--column", metavar="FIELD=COLUMN", help="The file's column for a field; may be repeated.")
]
Encoding = Annotated[str, typer.Option(help="Encoding of a text file; by default UTF-8, or by its byte order mark.")]
Delimiter = Annotated[
    str, typer.Option(help="Delimiter of a CSV file; by default comma, semicolon, tab or `|`, by the header.")
]
TimeFormat = Annotated[
    str, typer.Option(metavar="FORMAT", help="Format of dates that are not ISO 8601, as in strptime: `%m/%d/%Y %H:%M`.")
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
def items(
    file: File,
    column: Columns = [],  # noqa: B006  typer copies it
    listed: Listed = "",
    encoding: Encoding = "",
    delimiter: Delimiter = "",
    time_format: TimeFormat = "",
    rate: Rate = 500.0,
) -> None:
    """Send a catalog. Columns: item_id, title; optionally price, seller_id, event_time; all others become attributes.

    Ends with a table of what was left out or refused, by field. Refused rows become dead letters, and the exit status is 3.
    """
    from streams.sources.catalog_file import CatalogFile

    with exit_on_error():
        settings = load_production_settings()
        options = _read_options(settings, column, encoding, delimiter, time_format)
        _send(settings, CatalogFile(file, options, time_ms(listed) if listed else None), file, rate, TIME_LIMIT_MS)


@app.command()
def events(
    file: File,
    column: Columns = [],  # noqa: B006
    until: Until = "",
    encoding: Encoding = "",
    delimiter: Delimiter = "",
    time_format: TimeFormat = "",
    rate: Rate = 2000.0,
) -> None:
    """Send an event log. Columns: user_id, item_id, event_time (or event_time_s, event_time_ms); optionally type, quantity,
    event_id.

    Events are sent in order of event time, whatever the order of the file. A later call continues after --until. Ends with a
    table of what was left out or refused, by field. Refused rows become dead letters, and the exit status is 3.
    """
    from streams.sources.event_log_file import EventLogFile

    with exit_on_error():
        settings = load_production_settings()
        options = _read_options(settings, column, encoding, delimiter, time_format)
        _send(settings, EventLogFile(file, options), file, rate, time_ms(until) if until else TIME_LIMIT_MS)


def parse_columns(options: list[str]) -> dict[str, str]:
    """The column of each field from options of the form FIELD=COLUMN."""
    columns: dict[str, str] = {}
    for option in options:
        name, _, column = option.partition("=")
        if not name or not column:
            raise typer.BadParameter(f"--column {option!r} is not of the form FIELD=COLUMN")
        if name in columns:
            raise typer.BadParameter(f"--column names two columns for {name}: {columns[name]!r} and {column!r}")
        columns[name] = column
    return columns


def _read_options(settings: "Settings", column: list[str], encoding: str, delimiter: str, time_format: str) -> "ReadOptions":
    from streams.sources.formats import TextOptions
    from streams.sources.source_file import ReadOptions

    latest_ms = int((time.time() + settings.guard.future_limit_s) * 1000)
    text = TextOptions(encoding, "\t" if delimiter == r"\t" else delimiter)
    return ReadOptions(parse_columns(column), text, time_format, latest_ms)


def _send(settings: "Settings", source: "SourceFile", file: Path, rate: float, until_ms: int) -> None:
    from contextlib import closing

    from streams.operations.backfill import Backfill, Progress
    from streams.runtime.kafka.admin import read_topic_id
    from streams.runtime.kafka.producer import Producer
    from streams.sources.spool import Spool

    folder, topic = settings.state_dir / "backfill", source.topic
    earlier = Progress(folder, read_topic_id(settings.kafka, topic), source)
    with show_status(f"reading {topic.name}"):
        spool = Spool(source, folder)
    with spool, closing(Producer(settings.kafka)) as producer:
        records = spool.count(until_ms)
        backfill = Backfill(spool, file.name, topic, producer, settings.kafka.max_message_bytes)
        with open_progress() as progress:
            task = progress.add_task(topic.name, total=records)
            produced = backfill.run(earlier, rate, until_ms, lambda count: progress.advance(task, count))
    rest = "; an earlier run sent the rest" if produced < records else ""
    typer.echo(f"sent {produced} of {records} rows to {topic.name}{rest}")
    _report(source.report)


def _report(report: "Report") -> None:
    rows = [(name, found.rows, what, found.example) for (name, what), found in report.findings.items()]
    if rows:
        open_console().print(
            build_table("what the file has that was not taken as it is", ("field", "rows", "", "example"), rows)
        )
    if report.refused:
        typer.echo(f"refused {report.refused} of {report.rows} rows; see `reaseq dead-letters list --stage backfill`")
        raise typer.Exit(STATUS_REFUSED)
