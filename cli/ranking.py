"""The command that looks at a ranking: why an item stands where it stands."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import clear_errors, present_settings, table_of
from reaseq.days import time_ms

if TYPE_CHECKING:
    from rich.console import Console

    from reaseq.ranker.explain import Explanation
    from reaseq.records import ItemFeatures

app = typer.Typer()

SHOWN_BEHAVIORS = 6


@app.command()
def rank(
    user: Annotated[str, typer.Argument(metavar="USER")],
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="Without any, everything on sale.")] = None,
    best: Annotated[int, typer.Option(min=1, help="How many of the best to show and explain.")] = 5,
    at: Annotated[
        str, typer.Option(help="Rank for this moment (YYYY-MM-DDTHH:MM, UTC); without it, for just after the last.")
    ] = "",
) -> None:
    """Rank for a user and explain the best: which behaviors carried each, and how fresh each feature is."""
    from rich.console import Console

    from pipelines.ranker import load_engine
    from reaseq.errors import CatalogError
    from reaseq.ranker.explain import explain

    console = Console()
    with clear_errors():
        with console.status("reading the store and the archive"):
            engine, repository = load_engine(present_settings())
        known = repository.read_users([user]).get(user)
        if not known:
            console.print(f"nothing is known of user {user}: ranked by context")
        table = engine.table.snapshot
        if unknown := [item_id for item_id in items or [] if not engine.table.knows(item_id)]:
            raise CatalogError(f"the feature store does not know item {', '.join(unknown)}")
        now_ms = time_ms(at) if at else (known.event_time_ms + 1 if known else int(datetime.now(UTC).timestamp() * 1000))
        candidates = items or [table.ids[row] for row in table.live.nonzero().flatten().tolist()]
        scores = engine.score(known, candidates, now_ms)
        chosen = [candidates[place] for place in (-scores).argsort(kind="stable")[:best].tolist()]
        told = repository.read_items(list({*chosen, *(known.history.item_ids if known else ())}))
        told |= repository.read_items(list(known.inferred.item_ids) if known else [])
        console.print(f"user {user} at {_when(now_ms)}, ranker {engine.version}, {len(candidates)} candidates")
        for place, explanation in enumerate(explain(engine, known, chosen, now_ms), start=1):
            _show(console, place, explanation, told, now_ms)


def _show(console: "Console", place: int, found: "Explanation", told: "dict[str, ItemFeatures]", now_ms: int) -> None:
    def title(item_id: str) -> str:
        return told[item_id].title if item_id in told else item_id

    ages: Sequence[tuple[str, int | None]] = (
        ("listed", found.item_time_ms),
        ("newest behavior", found.history_time_ms),
        ("inferred as of", found.inferred_time_ms),
    )
    fresh = ", ".join(f"{name} {_ago(now_ms - time)}" for name, time in ages if time is not None)
    console.print(
        f"\n{place}. [bold]{title(found.item_id)}[/bold] ({found.item_id}), probability {found.probability:.2%}; {fresh}"
    )
    console.print("   " + ", ".join(f"{name} {odds:+.2f}" for name, odds in found.groups.items()))
    rows = [
        (
            f"{of.log_odds:+.3f}",
            title(of.item_id),
            _when(of.time_ms) if of.time_ms is not None else f"inferred, {of.confidence:.2f}",
        )
        for of in found.behaviors[:SHOWN_BEHAVIORS]
    ]
    if rows:
        console.print(table_of("", ("log-odds", "carried by", "when"), rows))


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _ago(span_ms: int) -> str:
    for unit, length_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if abs(span_ms) >= length_ms:
            return f"{span_ms / length_ms:.0f} {unit} ago"
    return "just now"
