"""Commands that inspect, price, refresh, export and import product knowledge."""

from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.backfill import Columns, parse_columns
from cli.terminal import (
    build_table,
    exit_on_error,
    load_production_settings,
    load_settings,
    open_console,
    open_progress,
    show_status,
)

if TYPE_CHECKING:
    from evaluation.cascade import CascadeCurve
    from reaseq.knowledge.llm.ledger import Ledger
    from reaseq.knowledge.reasoner import ReasoningItem

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True)

Item = Annotated[str, typer.Argument(metavar="ITEM", help="Item id.")]
CatalogFile = Annotated[Path, typer.Argument(metavar="CATALOG", help="Parquet or CSV with item_id, title and further columns.")]
Answers = Annotated[Path, typer.Option(help="Parquet file of a language model's recorded answers.")]
Rate = Annotated[float, typer.Option("--rate", min=0.1, help="Maximum number of items per second.")]

SHOWN_THRESHOLDS = 16


@app.command()
def show(item: Item) -> None:
    """Print an item's knowledge card: claims with evidence, confidence and provenance; LLM calls; cost; fingerprint."""

    from cli.knowledge_card import print_card
    from features.repository import FeatureRepository
    from reaseq.errors import CatalogError

    settings = load_settings()
    with exit_on_error():
        record = FeatureRepository(settings).read_items([item]).get(item)
        if record is None:
            raise CatalogError(f"the {settings.store.profile} feature store in {settings.state_dir} has no item {item!r}")
        print_card(open_console(), record, _open_ledger().entries(record.content))


@app.command()
def cost(
    by: Annotated[str, typer.Option(help="Group by agent, model, item_id, seller_id, origin or day.")] = "agent",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of groups to show, most expensive first.")] = 20,
) -> None:
    """Print the cost of the language model's answers, in tokens and seconds."""
    import json
    from dataclasses import asdict

    with exit_on_error():
        costs = _open_ledger().costs(by, limit)
    if as_json:
        typer.echo(json.dumps([asdict(cost) for cost in costs], indent=1))
        return
    columns = (by, "calls", "rejected", "tokens in", "cached", "tokens out", "seconds", "retries")
    rows = [(*list(asdict(cost).values())[:6], f"{cost.seconds:.1f}", cost.retries) for cost in costs]
    open_console().print(build_table("cost of the language model's answers", columns, rows))


@app.command()
def stale() -> None:
    """Count the items that the current prompts, vocabulary and model have not reasoned about, and estimate the cost.

    Items with a recorded answer are not stale. With a cascade, the estimate is an upper bound, since the student saves calls.
    """

    from pipelines.stale_knowledge import find_stale

    console = open_console()
    with exit_on_error():
        with show_status("comparing items with the ledger"):
            found = find_stale(load_settings())
    forecast = found.forecast
    console.print(build_table("calls to make", ("agent", "calls"), list(forecast.calls.items()) or [("none", 0)]))
    console.print(
        f"{forecast.items} of {found.listed} items are stale for {found.reasoner}: about {forecast.tokens_in:,.0f} tokens in"
        f" ({forecast.tokens_cached:,.0f} of them from the prefix cache) and {forecast.tokens_out:,.0f} out, {found.basis}"
    )


@app.command()
def refresh(
    rate: Rate = 100.0,
    fallbacks: Annotated[
        bool, typer.Option("--fallbacks", help="Also those with claims of the student or the zero-shot reasoner only.")
    ] = False,
) -> None:
    """Send every listed item to the reasoning workers again; they reason about those whose fingerprint has changed."""
    from pipelines.stale_knowledge import resend_items

    with exit_on_error(), open_progress() as progress:
        task = progress.add_task("refresh", total=None)
        settings = load_production_settings()
        sent = resend_items(settings, rate, fallbacks, lambda sent, total: progress.update(task, completed=sent, total=total))
    typer.echo(f"produced {sent} records to item-features")


@app.command()
def forget_rejected(
    reason: Annotated[
        list[str], typer.Option(help="Only this reason, such as refusal, malformed_json or http_400; may be repeated.")
    ] = [],  # noqa: B006
    day: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="Only rejections of this day (UTC).")] = "",
) -> None:
    """Forget rejected answers, so that their requests are made again. `refresh --fallbacks` then sends the items."""
    from datetime import date

    try:
        only_day = date.fromisoformat(day).isoformat() if day else ""
    except ValueError:
        raise typer.BadParameter(f"--day {day!r} is not of the form YYYY-MM-DD") from None
    with exit_on_error():
        counts = _open_ledger().forget_rejected(reason, only_day)
    if counts:
        open_console().print(build_table("rejected answers forgotten", ("reason", "answers"), sorted(counts.items())))
        typer.echo("to have the items reasoned about again, run `reaseq knowledge refresh --fallbacks`")
    else:
        typer.echo("the ledger has no such rejected answer")


@app.command()
def cascade(
    answers: Answers, out: Annotated[Path, typer.Option(help="Directory of the plot and the figures.")] = Path("out/cascade")
) -> None:
    """Print and plot cost and quality of the cascade at each threshold, on held-out items, and the quality of its fallbacks."""

    from evaluation.cascade import report_cascade
    from pipelines.student import build_teacher

    console = open_console()
    with exit_on_error():
        with show_status("training a student on the items that are not held out"):
            curves, scores = report_cascade(build_teacher(load_settings(), answers), out)
    rows = [
        (f"{score.reasoner}, {score.items}", f"{score.scores[-1].precision:.2f}", f"{score.scores[-1].recall:.2f}")
        for score in scores
    ]
    console.print(build_table("claims of cheaper reasoners, compared with the teacher's", ("", "precision", "recall"), rows))
    for curve in curves:
        columns = ("threshold", "items sent", "agent calls", "precision", "recall")
        console.print(build_table(f"{curve.count} held-out items: {curve.items}", columns, _build_cascade_rows(curve)))
        kept = curve.at_95
        console.print(
            f"threshold {kept.threshold:.3f} keeps 95% of the teacher's claims: {1 - kept.items_sent_share:.1%} of the items"
            f" need no call, and {1 - kept.agent_calls_share:.1%} of the drafting agents' calls are saved\n"
        )
    console.print(f"plot: {out / 'cascade.png'}, figures: {out / 'cascade.json'}")


@app.command()
def export_batch(
    catalog: CatalogFile,
    out: Annotated[Path, typer.Argument(metavar="REQUESTS")],
    column: Columns = [],  # noqa: B006  typer copies it
) -> None:
    """Write a catalog's pending LLM calls as JSONL in the OpenAI batch format: one round of the agents, without duplicates."""
    from pipelines.knowledge import build_agents
    from reaseq.knowledge.agents.pending import export_batch as export

    result = _run_batch(catalog, column, "export", lambda items: export(build_agents(load_settings()), items, out))
    by_agent = ", ".join(f"{count} of {agent}" for agent, count in result.requests.items())
    typer.echo(f"{result.requests.total()} calls in {out}: {by_agent}" if result.requests else "no calls are pending")
    if result.rejected:
        rows = result.rejected.most_common()
        open_console().print(build_table("items without knowledge: their answers were rejected", ("reason", "items"), rows))
    elif not result.requests:
        typer.echo("every item has its answers")


@app.command()
def import_batch(
    catalog: CatalogFile,
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS")],
    column: Columns = [],  # noqa: B006  typer copies it
) -> None:
    """Validate a batch's answers and add them to the ledger. Then export the next round.

    Prints how many answers were accepted, rejected or missing, by reason, and the claims that will be dropped.
    """
    from pipelines.knowledge import build_agents
    from reaseq.knowledge.agents.pending import ACCEPTED
    from reaseq.knowledge.agents.pending import import_batch as import_answers

    result = _run_batch(catalog, column, "import", lambda items: import_answers(build_agents(load_settings()), items, answers))
    if not result.outcomes:
        typer.echo(f"{answers} contains no answers")
        return
    console = open_console()
    console.print(build_table("answers", ("outcome", "answers"), result.outcomes.most_common()))
    if result.dropped_claims:
        dropped = [(agent, fault, count) for (agent, fault), count in result.dropped_claims.most_common()]
        console.print(build_table("dropped claims", ("agent", "fault", "claims"), dropped))
    if not result.outcomes[ACCEPTED]:
        typer.echo("no answer was accepted: no item gains knowledge from this batch")


@app.command("export")
def export_ledger(out: Annotated[Path, typer.Argument(metavar="PARQUET")]) -> None:
    """Write the ledger, every answer with its cost, to a parquet file."""
    with exit_on_error():
        rows = _open_ledger().export_parquet(out)
    typer.echo(f"{rows} answers in {out}")


@app.command("import")
def import_ledger(source: Annotated[Path, typer.Argument(metavar="PARQUET")]) -> None:
    """Add the answers of an exported ledger, so that the same calls are not made again."""
    with exit_on_error():
        rows, new = _open_ledger().import_parquet(source)
    typer.echo(f"{rows} answers read, {new} of them new")


def _run_batch(
    catalog: Path, columns: list[str], name: str, run: "Callable[[Iterator[ReasoningItem]], Coroutine[None, None, T]]"
) -> T:
    """Run a batch function on the items of a catalog file, with a progress bar."""
    import asyncio

    from pipelines.knowledge import to_reasoning_item
    from streams.sources.catalog_file import CatalogFile as CatalogRows
    from streams.sources.source_file import ReadOptions

    options = ReadOptions(names=parse_columns(columns))
    with exit_on_error(), open_progress() as progress:
        rows = CatalogRows(catalog, options)
        items = progress.track(map(to_reasoning_item, rows.items()), total=None, description=name)
        return asyncio.run(run(iter(items)))


def _open_ledger() -> "Ledger":
    from reaseq.knowledge.llm.ledger import Ledger

    return Ledger(load_settings().ledger_file)


def _build_cascade_rows(curve: "CascadeCurve") -> list[tuple[str, ...]]:
    """Evenly spaced points of the curve."""
    return [
        (
            f"{point.threshold:.3f}",
            f"{point.items_sent_share:.1%}",
            f"{point.agent_calls_share:.1%}",
            f"{point.precision:.3f}",
            f"{point.recall:.3f}",
        )
        for point in curve.points[:: max(1, len(curve.points) // SHOWN_THRESHOLDS)]
    ]
