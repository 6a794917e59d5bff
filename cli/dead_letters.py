"""Commands that inspect, replay and discard dead letters."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import build_table, exit_on_error, load_production_settings, open_console, open_progress
from reaseq.days import time_ms
from reaseq.plain_text import plain
from reaseq.records import TIME_LIMIT_MS

if TYPE_CHECKING:
    from reaseq.settings import Settings
    from streams.delivery.dead_letters import DeadLetter
    from streams.operations.dead_letter_queue import DeadLetterQueue, Filter

app = typer.Typer(no_args_is_help=True)

SHOWN_BYTES = 2000

Id = Annotated[str, typer.Option("--id", help="Only dead letters with this id. `*` is a wildcard in all filters but --since.")]
Topic = Annotated[str, typer.Option(help="Only from this topic.")]
Stage = Annotated[str, typer.Option(help="Only from this stage.")]
Reason = Annotated[str, typer.Option(help="Only with this reason code.")]
Key = Annotated[str, typer.Option(help="Only with this record key (the item or user id).")]
Since = Annotated[str, typer.Option(help="Only if the last failure was on this day (YYYY-MM-DD) or later.")]


@app.command("list")
def list_dead_letters(
    id_: Id = "*",
    topic: Topic = "*",
    stage: Stage = "*",
    reason: Reason = "*",
    key: Key = "*",
    since: Since = "",
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of dead letters to show.")] = 50,
) -> None:
    """List open dead letters: those neither replayed nor discarded."""
    from itertools import islice

    queue, console = _build_queue(load_production_settings()), open_console()
    with exit_on_error():
        found = queue.read_open(_build_filter(id_, topic, stage, reason, key, since))
        rows = [
            (
                dead_letter.id,
                (dead_letter.record.key or b"").decode(errors="replace"),
                f"{dead_letter.reason}{', truncated' if dead_letter.cut_bytes else ''}",
                f"{dead_letter.attempts}{', quarantined' if queue.in_quarantine(dead_letter) else ''}",
                _format_time(dead_letter.last_failure_ms),
            )
            for dead_letter in islice(found, limit)
        ]
        further = sum(1 for _ in found)
    console.print(build_table("dead letters", ("id", "key", "reason", "attempts", "last failure"), rows))
    if further:
        console.print(f"and {further} more (see --limit)")


@app.command()
def show(dead_letter_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show a dead letter: the error, and the original record."""

    from reaseq.errors import ReaSeqError
    from streams.operations.dead_letter_queue import Filter

    console = open_console()
    with exit_on_error():
        dead_letter = next(_build_queue(load_production_settings()).read_open(Filter(dead_letter_id)), None)
        if dead_letter is None:
            raise ReaSeqError(f"no open dead letter has the id {dead_letter_id!r}; `reaseq dead-letters list` lists them")
    console.print(build_table(dead_letter.id, ("field", "value"), _build_fields(dead_letter)))
    value = dead_letter.record.value or b""
    console.print(plain(value[:SHOWN_BYTES].decode(errors="backslashreplace")), highlight=False)
    if len(value) > SHOWN_BYTES:
        console.print(f"… {len(value)} bytes in total")


@app.command()
def replay(
    id_: Id = "*",
    topic: Topic = "*",
    stage: Stage = "*",
    reason: Reason = "*",
    key: Key = "*",
    since: Since = "",
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Include quarantined dead letters.")] = False,
) -> None:
    """Produce the original records to their topics again.

    Skips truncated records, and records that failed too often (quarantined) unless --quarantined is given.
    """
    from features.repository import FeatureRepository

    settings = load_production_settings()
    with exit_on_error(), open_progress() as progress:
        queue, which = _build_queue(settings), _build_filter(id_, topic, stage, reason, key, since)
        task = progress.add_task("replay", total=sum(1 for _ in queue.read_open(which)))
        replayed = queue.replay(which, FeatureRepository(settings), quarantined, lambda count: progress.advance(task, count))
    skipped = f", {replayed.skipped} skipped: quarantined or truncated" if replayed.skipped else ""
    typer.echo(f"{replayed.produced} replayed{skipped}")


@app.command()
def discard(
    id_: Id = "*", topic: Topic = "*", stage: Stage = "*", reason: Reason = "*", key: Key = "*", since: Since = ""
) -> None:
    """Delete dead letters without replaying them. At least one filter option is required."""
    from streams.operations.dead_letter_queue import Filter

    which = _build_filter(id_, topic, stage, reason, key, since)
    if which == Filter():
        raise typer.BadParameter("give at least one of --id, --topic, --stage, --reason, --key and --since")
    with exit_on_error():
        typer.echo(f"{_build_queue(load_production_settings()).discard(which)} discarded")


def _build_queue(settings: "Settings") -> "DeadLetterQueue":
    from streams.operations.dead_letter_queue import DeadLetterQueue

    return DeadLetterQueue(settings.kafka, settings.guard.quarantine_attempts)


def _build_filter(id_: str, topic: str, stage: str, reason: str, key: str, since: str) -> "Filter":
    from streams.operations.dead_letter_queue import Filter

    return Filter(id_, topic, stage, reason, key, time_ms(since) if since else 0)


def _build_fields(dead_letter: "DeadLetter") -> list[tuple[str, object]]:
    fields = asdict(dead_letter)
    record = fields.pop("record")
    for name in ("first_failure_ms", "last_failure_ms"):
        fields[name] = _format_time(fields[name])
    return [*fields.items(), ("key", record.key), *((f"header {name}", value) for name, value in record.headers)]


def _format_time(at_ms: int) -> str:
    if at_ms > TIME_LIMIT_MS:  # whoever produced the dead letter wrote it
        return f"{at_ms} ms"
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(" ", "seconds")
