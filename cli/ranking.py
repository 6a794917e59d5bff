"""The command that ranks for a user and explains the result."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import build_table, exit_on_error, load_settings, open_console, show_status
from reaseq.days import time_ms
from reaseq.plain_text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.explanation import ExplainedRanking
    from reaseq.ranker.explain import Explanation

app = typer.Typer()

SHOWN_BEHAVIORS = 6
UNITS_MS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000))


@app.command()
def rank(
    user: Annotated[str, typer.Argument(metavar="USER")],
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="Candidates; by default, all on sale.")] = None,
    best: Annotated[int, typer.Option(min=1, help="How many of the best candidates to show and explain.")] = 5,
    at: Annotated[
        str, typer.Option(help="Time to rank at (YYYY-MM-DDTHH:MM, UTC); by default, just after the user's last event.")
    ] = "",
) -> None:
    """Rank for a user and explain the best candidates: the contribution of each behavior, and the age of each feature."""

    from pipelines.explanation import rank_and_explain

    console = open_console()
    with exit_on_error():
        with show_status("reading the store and the archive"):
            ranking = rank_and_explain(load_settings(), user, items or [], best, time_ms(at) if at else None)
    if not ranking.user_is_known:
        console.print(f"user {plain(user)} has no features: ranked by context only")
    now = _format_time(ranking.now_ms)
    console.print(f"user {plain(user)} at {now}, ranker {plain(ranking.ranker)}, {ranking.candidates} candidates")
    for position, explanation in enumerate(ranking.best, start=1):
        _print_explanation(console, position, explanation, ranking)


def _print_explanation(console: "Console", position: int, explanation: "Explanation", ranking: "ExplainedRanking") -> None:
    from rich.text import Text

    def get_title(item_id: str) -> str:
        return ranking.titles.get(item_id, item_id)

    times = {
        "listed": explanation.item_time_ms,
        "newest behavior": explanation.history_time_ms,
        "inferred as of": explanation.inferred_time_ms,
    }
    ages = ", ".join(f"{name} {_format_age(ranking.now_ms - time)}" for name, time in times.items() if time is not None)
    title = Text(plain(get_title(explanation.item_id)), "bold")
    rest = f" ({plain(explanation.item_id)}), probability {explanation.probability:.2%}; {ages}"
    console.print(Text.assemble(f"\n{position}. ", title, rest))
    console.print("   " + ", ".join(f"{name} {log_odds:+.2f}" for name, log_odds in explanation.groups.items()))
    rows = [
        (
            f"{behavior.log_odds:+.3f}",
            get_title(behavior.item_id),
            f"inferred, {behavior.confidence:.2f}" if behavior.time_ms is None else _format_time(behavior.time_ms),
        )
        for behavior in explanation.behaviors[:SHOWN_BEHAVIORS]
    ]
    if rows:
        console.print(build_table("", ("log-odds", "contributed by", "when"), rows))


def _format_time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _format_age(age_ms: int) -> str:
    for unit, length_ms in UNITS_MS:
        if abs(age_ms) >= length_ms:
            return f"{age_ms / length_ms:.0f} {unit} ago"
    return "just now"
