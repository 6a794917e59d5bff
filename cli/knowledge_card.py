"""Prints an item's knowledge card."""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from reaseq.knowledge.agents.answers import extract_reasoning
from reaseq.knowledge.llm.ledger import Entry
from reaseq.plain_text import plain
from reaseq.records import Claim, ItemFeatures, ProductKnowledge


def print_card(console: Console, record: ItemFeatures, calls: Sequence[Entry]) -> None:
    """Print the record, its knowledge, and the LLM calls about its text from the ledger."""
    parts: list[Text | Table] = [_build_facts(record)]
    if record.knowledge is None:
        parts.append(Text("no knowledge yet: models see only the item's text", style="yellow"))
    else:
        parts.append(_build_claims(record.knowledge.claims))
        parts += _build_texts(record.knowledge)
    if calls:
        parts.append(_build_calls(calls))
    console.print(Panel(Group(*parts), title=Text(plain(f"{record.item_id}  {record.title}"))))


def _build_facts(record: ItemFeatures) -> Text:
    product_type = record.knowledge.product_type if record.knowledge else ""
    price = "" if record.price is None else f"{record.price:g}"
    facts = [("status", record.status), ("type", product_type), ("price", price)]
    facts += [("seller", record.seller_id), ("content", record.content), ("fingerprint", record.fingerprint)]
    facts += record.attributes.items()
    return Text("\n").join(_build_line(name, value) for name, value in facts if value)


def _build_texts(knowledge: ProductKnowledge) -> list[Text]:
    texts = {
        "profile": knowledge.profile,
        "complements": ", ".join(knowledge.complements),
        "substitutes": ", ".join(knowledge.substitutes),
    }
    return [_build_line(name, value) for name, value in texts.items() if value]


def _build_line(name: str, value: str) -> Text:
    return Text.assemble((f"{plain(name)}: ", "bold"), plain(value))


def _build_claims(claims: Sequence[Claim]) -> Table:
    table = Table("group", "value", "confidence", "evidence", "provenance")
    for claim in claims:
        cells = (claim.group, claim.value, f"{claim.confidence:.2f}", claim.evidence, claim.reasoner)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def _build_calls(calls: Sequence[Entry]) -> Table:
    columns = ("agent", "reasoning", "tokens in", "cached", "out", "seconds", "model")
    table = Table(*columns, title="LLM calls", title_justify="left")
    for call in calls:
        usage, rejected = call.completion.usage, call.completion.rejected
        reasoning = f"rejected: {rejected}" if rejected else " ".join(extract_reasoning(call.completion.text).split())
        counts = (usage.tokens_in, usage.tokens_cached, usage.tokens_out, f"{usage.seconds:.2f}")
        shown = Text(plain(reasoning), style="red" if rejected else "")
        table.add_row(Text(plain(call.agent)), shown, *map(str, counts), Text(plain(call.model)))
    return table
