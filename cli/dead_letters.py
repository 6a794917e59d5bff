"""Commands about dead letters."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import clear_errors, production_settings, table_of
from reaseq.days import time_ms

if TYPE_CHECKING:
    from reaseq.settings import Settings
    from streams.operations.dead_letter_queue import DeadLetterQueue, Filter

app = typer.Typer(no_args_is_help=True)

SHOWN_BYTES = 2000

Id = Annotated[str, typer.Option("--id", help="Letters of this id; `*` stands for anything, here and below.")]
Topic = Annotated[str, typer.Option(help="… of this topic.")]
Stage = Annotated[str, typer.Option(help="… of this stage.")]
Reason = Annotated[str, typer.Option(help="… with this reason.")]
Key = Annotated[str, typer.Option(help="… of this entity.")]
Since = Annotated[str, typer.Option(help="… that failed last on this day (YYYY-MM-DD) or later.")]


@app.command("list")
def list_letters(
    id_: Id = "*",
    topic: Topic = "*",
    stage: Stage = "*",
    reason: Reason = "*",
    key: Key = "*",
    since: Since = "",
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many.")] = 50,
) -> None:
    """List the letters that nobody has dealt with."""
    from itertools import islice

    from rich.console import Console

    box, console = _box(production_settings()), Console()
    with clear_errors():
        found = box.open(_filter(id_, topic, stage, reason, key, since))
        rows = [
            (
                letter.id,
                (letter.record.key or b"").decode(errors="replace"),
                f"{letter.reason}{', cut' if letter.cut_bytes else ''}",
                f"{letter.attempts}{', in quarantine' if box.in_quarantine(letter) else ''}",
                _moment(letter.last_failure_ms),
            )
            for letter in islice(found, limit)
        ]
        further = sum(1 for _ in found)
    console.print(table_of("dead letters", ("id", "key", "reason", "attempts", "last failure"), rows))
    if further:
        console.print(f"and {further} more (--limit)")


@app.command()
def show(letter_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show one letter: why it died, and what it said."""
    from rich.console import Console

    from streams.operations.dead_letter_queue import Filter

    console = Console()
    with clear_errors():
        for letter in _box(production_settings()).open(Filter(letter_id)):
            told = asdict(letter) | {name: _moment(getattr(letter, name)) for name in ("first_failure_ms", "last_failure_ms")}
            record = told.pop("record")
            rows = [*told.items(), ("key", record.key), *((f"header {name}", value) for name, value in record.headers)]
            console.print(table_of(letter.id, ("", ""), rows))
            value = record.value or b""
            console.print(value[:SHOWN_BYTES].decode(errors="backslashreplace"), markup=False, highlight=False)
            if len(value) > SHOWN_BYTES:
                console.print(f"… {len(value)} bytes in all")
            return
        _none(letter_id)


@app.command()
def replay(
    id_: Id = "*",
    topic: Topic = "*",
    stage: Stage = "*",
    reason: Reason = "*",
    key: Key = "*",
    since: Since = "",
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Also those in quarantine.")] = False,
) -> None:
    """Send the records back through their topics; those that failed too often stay in quarantine, and those that were cut."""
    from rich.progress import Progress

    from features.repository import FeatureRepository

    settings = production_settings()
    with clear_errors(), Progress() as progress:
        box, which = _box(settings), _filter(id_, topic, stage, reason, key, since)
        task = progress.add_task("replay", total=sum(1 for _ in box.open(which)))
        done = box.replay(which, FeatureRepository(settings), quarantined, lambda met: progress.advance(task, met))
    typer.echo(f"{done.produced} replayed" + (f", {done.left} left: in quarantine, or cut" if done.left else ""))


@app.command()
def discard(
    id_: Id = "*", topic: Topic = "*", stage: Stage = "*", reason: Reason = "*", key: Key = "*", since: Since = ""
) -> None:
    """Drop letters for good, without replaying them. At least one option must say which."""
    from streams.operations.dead_letter_queue import Filter

    which = _filter(id_, topic, stage, reason, key, since)
    if which == Filter():
        raise typer.BadParameter("say which letters: --id, --topic, --stage, --reason, --key or --since")
    with clear_errors():
        typer.echo(f"{_box(production_settings()).discard(which)} discarded")


def _box(settings: "Settings") -> "DeadLetterQueue":
    from streams.operations.dead_letter_queue import DeadLetterQueue

    return DeadLetterQueue(settings.kafka, settings.guard.quarantine_attempts)


def _filter(id_: str, topic: str, stage: str, reason: str, key: str, since: str) -> "Filter":
    from streams.operations.dead_letter_queue import Filter

    return Filter(id_, topic, stage, reason, key, time_ms(since) if since else 0)


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(" ", "seconds")


def _none(letter_id: str) -> None:
    from reaseq.errors import ReaSeqError

    raise ReaSeqError(f"there is no open letter {letter_id!r}; `reaseq dead-letters list` shows which there are")
