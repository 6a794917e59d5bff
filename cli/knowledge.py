"""Commands about product knowledge: look at it, price it, renew it, and move it in and out."""

from pathlib import Path
from typing import Annotated

import typer

from cli.terminal import clear_errors, present_settings, production_settings, table_of

app = typer.Typer(no_args_is_help=True)

Item = Annotated[str, typer.Argument(metavar="ITEM", help="An item's id.")]
CatalogFile = Annotated[Path, typer.Argument(metavar="CATALOG", help="Parquet or CSV with item_id, title and further columns.")]
Answers = Annotated[Path, typer.Option(help="Parquet of a language model's recorded answers.")]
Rate = Annotated[float, typer.Option("--rate", min=0.1, help="Items a second at most.")]


@app.command()
def show(item: Item) -> None:
    """Print an item's card: claims with evidence and confidence, who made them, their reasoning, cost and fingerprint."""
    from rich.console import Console

    from cli.card import print_card
    from features.repository import FeatureRepository
    from reaseq.errors import CatalogError
    from reaseq.knowledge.llm.ledger import Ledger

    settings = present_settings()
    with clear_errors():
        record = FeatureRepository(settings).read_items([item]).get(item)
        if record is None:
            raise CatalogError(f"the {settings.store.profile} feature store of {settings.state_dir} has no item {item!r}")
        print_card(Console(), record, Ledger(settings.ledger_file).entries(record.content))


@app.command()
def cost(
    by: Annotated[str, typer.Option(help="agent, model, item_id, seller_id, origin or day.")] = "agent",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The dearest so many.")] = 20,
) -> None:
    """Print what the language model's answers cost, in tokens and seconds."""
    import json
    from dataclasses import asdict

    from rich.console import Console

    from reaseq.knowledge.llm.ledger import Ledger

    with clear_errors():
        costs = Ledger(present_settings().ledger_file).costs(by, limit)
    if as_json:
        typer.echo(json.dumps([asdict(cost) for cost in costs], indent=1))
        return
    columns = (by, "calls", "rejected", "tokens in", "of them cached", "tokens out", "seconds", "retries")
    rows = [(*list(asdict(cost).values())[:6], f"{cost.seconds:.1f}", cost.retries) for cost in costs]
    Console().print(table_of("cost of the language model's answers", columns, rows))


@app.command()
def stale() -> None:
    """Say how many items the present prompts, vocabulary and model have not reasoned about, and about what it would cost.

    Items with a recorded answer are not asked about. Where a cascade is set, it is an upper bound: the student spares calls.
    """
    import asyncio

    from rich.console import Console

    from features.repository import FeatureRepository
    from pipelines.catalog import scan_listed_items
    from pipelines.knowledge import build_agents, recorded_contents, to_reasoning_item
    from reaseq.knowledge.agents.pending import Forecaster

    settings, console = present_settings(), Console()
    with clear_errors():
        agents = build_agents(settings)
        forecaster = Forecaster(agents)
        recorded = recorded_contents(settings)
        with console.status("comparing items with the ledger"):
            records = list(scan_listed_items(FeatureRepository(settings)))
            asyncio.run(forecaster.add(to_reasoning_item(record) for record in records if record.content not in recorded))
        total = forecaster.total
    console.print(table_of("calls that would be made", ("agent", "calls"), list(total.calls.items()) or [("none", 0)]))
    console.print(
        f"{total.items} of {len(records)} items are stale for {agents.identity}: about {total.tokens_in:,.0f} tokens in"
        f" ({total.tokens_cached:,.0f} of them from the prefix cache) and {total.tokens_out:,.0f} out, {forecaster.basis}"
    )


@app.command()
def refresh(rate: Rate = 100.0) -> None:
    """Put every item before the reasoning workers again; those of another fingerprint are reasoned about anew."""
    from rich.progress import Progress

    from features.repository import FeatureRepository
    from pipelines.catalog import scan_listed_items
    from streams.operations.replay import at_rate
    from streams.runtime.kafka_clients import Producer

    settings = production_settings()
    with clear_errors(), Progress() as progress:
        records = list(scan_listed_items(FeatureRepository(settings)))
        task = progress.add_task("refresh", total=len(records))
        producer = Producer(settings.kafka)
        for chunk in at_rate(records, rate):
            progress.advance(task, producer.send(chunk))
        producer.close()
    typer.echo(f"produced {len(records)} records to item-features")


@app.command()
def cascade(
    answers: Answers, out: Annotated[Path, typer.Option(help="Where the picture and the figures go.")] = Path("out/cascade")
) -> None:
    """Print what each threshold of the cascade costs and keeps, on held-out items, and draw it."""
    from rich.console import Console

    from evaluation.cascade import cascade_report
    from pipelines.student import build_teacher

    settings, console = present_settings(), Console()
    with clear_errors():
        with console.status("training a student on the items that are not held out"):
            parts = cascade_report(build_teacher(settings, answers), out)
    for part in parts:
        columns = ("threshold", "items sent", "agent calls", "precision", "recall")
        rows = [
            (
                f"{p.threshold:.3f}",
                f"{p.items_sent_share:.1%}",
                f"{p.agent_calls_share:.1%}",
                f"{p.precision:.3f}",
                f"{p.recall:.3f}",
            )
            for p in part.points[:: max(1, len(part.points) // 16)]
        ]
        console.print(table_of(f"{part.count} held-out items: {part.items}", columns, rows))
        kept = part.at_95
        console.print(
            f"95 % of the teacher's claims are kept at threshold {kept.threshold:.3f}: {1 - kept.items_sent_share:.1%} of the"
            f" items need no call, {1 - kept.agent_calls_share:.1%} of the drafting agents' calls are not made\n"
        )
    console.print(f"picture and figures: {out / 'cascade.png'}, {out / 'cascade.json'}")


@app.command()
def export_batch(catalog: CatalogFile, out: Annotated[Path, typer.Argument(metavar="REQUESTS")]) -> None:
    """Write a catalog's pending calls as JSONL in the OpenAI batch format: one round of the agents, equal calls once."""
    import asyncio

    from rich.progress import Progress

    from pipelines.knowledge import build_agents, to_reasoning_item
    from reaseq.knowledge.agents.pending import export_batch as export
    from streams.operations.backfill import CatalogFile as Rows

    with clear_errors(), Progress() as progress:
        rows = Rows(catalog)
        items = progress.track(map(to_reasoning_item, rows.items()), total=len(rows), description="export")
        counts = asyncio.run(export(build_agents(present_settings()), items, out))
    told = ", ".join(f"{count} of {agent}" for agent, count in counts.items())
    typer.echo(f"{counts.total()} calls in {out}: {told}" if counts else "no call is missing: every item has its answers")


@app.command()
def import_batch(catalog: CatalogFile, answers: Annotated[Path, typer.Argument(metavar="ANSWERS")]) -> None:
    """Take the answers of a batch into the ledger, checked like live ones; then export the next round."""
    import asyncio

    from rich.progress import Progress

    from pipelines.knowledge import build_agents, to_reasoning_item
    from reaseq.knowledge.agents.pending import import_batch as take
    from streams.operations.backfill import CatalogFile as Rows

    with clear_errors(), Progress() as progress:
        rows = Rows(catalog)
        items = progress.track(map(to_reasoning_item, rows.items()), total=len(rows), description="import")
        outcomes = asyncio.run(take(build_agents(present_settings()), items, answers))
    typer.echo(", ".join(f"{outcome}: {count}" for outcome, count in outcomes.items()) or "no answer in the file")


@app.command("export")
def export_ledger(out: Annotated[Path, typer.Argument(metavar="PARQUET")]) -> None:
    """Write the ledger, every answer with its cost, to a parquet file."""
    from reaseq.knowledge.llm.ledger import Ledger

    with clear_errors():
        rows = Ledger(present_settings().ledger_file).export_parquet(out)
    typer.echo(f"{rows} answers in {out}")


@app.command("import")
def import_ledger(source: Annotated[Path, typer.Argument(metavar="PARQUET")]) -> None:
    """Take over the answers of an exported ledger: what stands there is not asked again."""
    from reaseq.knowledge.llm.ledger import Ledger

    with clear_errors():
        rows, new = Ledger(present_settings().ledger_file).import_parquet(source)
    typer.echo(f"{rows} answers read, {new} of them new")
