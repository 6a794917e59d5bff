"""An item's knowledge card, for people."""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from reaseq.knowledge.agents.agent_pipeline import thinking
from reaseq.knowledge.llm.ledger import Entry
from reaseq.records import Claim, ItemFeatures


def print_card(console: Console, record: ItemFeatures, calls: Sequence[Entry]) -> None:
    """Print the record, and the calls that stand in the ledger about its text."""
    knowledge = record.knowledge
    parts: list[Text | Table] = [_facts(record)]
    if knowledge is None:
        parts.append(Text("nothing is known yet: the item is served by its text", style="yellow"))
    else:
        parts.append(_claims(knowledge.claims))
        free = [("profile", knowledge.profile), ("goes with", ", ".join(knowledge.complements))]
        free += [("instead of", ", ".join(knowledge.substitutes))]
        parts += [Text.assemble((f"{name}: ", "bold"), value) for name, value in free if value]
    if calls:
        parts.append(_calls(calls))
    console.print(Panel(Group(*parts), title=f"{record.item_id}  {record.title}"))


def _facts(record: ItemFeatures) -> Text:
    kind = record.knowledge.product_type if record.knowledge else ""
    facts = [("status", record.status), ("type", kind), ("price", "" if record.price is None else f"{record.price:g}")]
    facts += [("seller", record.seller_id), ("content", record.content), ("fingerprint", record.fingerprint)]
    facts += [(name, value) for name, value in record.attributes.items()]
    return Text("\n").join(Text.assemble((f"{name}: ", "bold"), value) for name, value in facts if value)


def _claims(claims: Sequence[Claim]) -> Table:
    table = Table("group", "value", "confidence", "evidence", "who says so")
    for claim in claims:
        table.add_row(claim.group, claim.value, f"{claim.confidence:.2f}", Text(claim.evidence), claim.reasoner)
    return table


def _calls(calls: Sequence[Entry]) -> Table:
    table = Table(
        "agent", "reasoning", "tokens in", "cached", "out", "seconds", "model", title="what was asked", title_justify="left"
    )
    for call in calls:
        usage, rejected = call.completion.usage, call.completion.rejected
        told = Text(f"rejected: {rejected}", style="red") if rejected else Text(thinking(call.completion.text))
        counts = (usage.tokens_in, usage.tokens_cached, usage.tokens_out, f"{usage.seconds:.2f}")
        table.add_row(call.agent, told, *map(str, counts), call.model)
    return table
