"""An item's card: what its text says, what is known of it and on whose word, what lies near it, and what that cost."""

from dataclasses import dataclass
from pathlib import Path

from features.repository import FeatureRepository
from reaseq import float16
from reaseq.artifacts import current, is_published
from reaseq.knowledge.agents.agent_pipeline import thinking
from reaseq.knowledge.llm.ledger import Entry, look_up
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim, ItemFeatures, ProductKnowledge
from reaseq.representation.item_table import ItemTable
from reaseq.representation.semantic_ids import KIND as SEMANTIC_IDS
from reaseq.representation.semantic_ids import Codebook, semantic_id, written
from serving.console.titles import read_titles

NEIGHBORS = 10


@dataclass(frozen=True)
class DefinedClaim:
    """A claim, and what its value means in the vocabulary."""

    claim: Claim
    definition: str


@dataclass(frozen=True)
class Neighbor:
    """An item on sale that lies near in the space of content vectors."""

    item_id: str
    title: str
    cosine: float
    claims_shared: int


@dataclass(frozen=True)
class LedgerCall:
    """One answered call of the language model about the item's text."""

    agent: str
    model: str
    reasoning: str
    rejected: str
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    seconds: float
    answered_ms: int


@dataclass(frozen=True)
class ItemCard:
    """Everything that is known of an item. `calls` is None where no ledger can be read here."""

    item_id: str
    status: str
    title: str
    attributes: dict[str, str]
    price: float | None
    seller_id: str
    listed_ms: int
    event_time_ms: int
    space_id: str
    content: str
    fingerprint: str
    vocabulary: str
    product_type: str
    profile: str
    complements: tuple[str, ...]
    substitutes: tuple[str, ...]
    claims: tuple[DefinedClaim, ...]
    semantic_id: str  # empty: no codebook is published for this space
    served: bool  # the ranking service has it in its table
    neighbors: tuple[Neighbor, ...]
    calls: tuple[LedgerCall, ...] | None


@dataclass(frozen=True)
class ItemCards:
    """Reads cards. `read` raises StoreUnavailable."""

    store: FeatureRepository
    table: ItemTable
    vocabulary: Vocabulary
    models_dir: Path
    ledger_file: Path

    def read(self, item_id: str) -> ItemCard | None:
        """The card of an item; None of one that the store does not know."""
        record = self.store.read_items([item_id]).get(item_id)
        if record is None:
            return None
        knowledge = record.knowledge or ProductKnowledge(vocabulary="", claims=())
        return ItemCard(
            item_id=record.item_id,
            status=record.status,
            title=record.title,
            attributes=record.attributes,
            price=record.price,
            seller_id=record.seller_id,
            listed_ms=record.listed_ms,
            event_time_ms=record.event_time_ms,
            space_id=record.space_id,
            content=record.content,
            fingerprint=record.fingerprint,
            vocabulary=knowledge.vocabulary,
            product_type=knowledge.product_type,
            profile=knowledge.profile,
            complements=knowledge.complements,
            substitutes=knowledge.substitutes,
            claims=tuple(DefinedClaim(claim, self._definition(claim)) for claim in knowledge.claims),
            semantic_id=self._semantic_id(record),
            served=self.table.knows(item_id),
            neighbors=self._neighbors(item_id),
            calls=self._calls(record.content),
        )

    def _definition(self, claim: Claim) -> str:
        groups = [group for group in self.vocabulary.groups if group.name == claim.group]
        return groups[0].values.get(claim.value, "") if groups else ""

    def _neighbors(self, item_id: str) -> tuple[Neighbor, ...]:
        table = self.table.snapshot
        row = int(table.rows([item_id])[0])
        if not row:
            return ()
        near = table.neighbors(row, NEIGHBORS)
        titles, claims = read_titles(self.store, [table.ids[other] for other, _ in near]), table.get_claims(row)
        return tuple(
            Neighbor(table.ids[other], titles.get(table.ids[other], ""), cosine, len(claims & table.get_claims(other)))
            for other, cosine in near
        )

    def _semantic_id(self, record: ItemFeatures) -> str:
        if not record.vector or not is_published(self.models_dir, SEMANTIC_IDS):
            return ""
        codebook = Codebook.load(current(self.models_dir, SEMANTIC_IDS))
        if codebook.space_id != record.space_id:
            return ""
        vector = float16.unpack(record.vector)
        return written(semantic_id(record.item_id, codebook.encode(vector[None], record.space_id)[0]))

    def _calls(self, content: str) -> tuple[LedgerCall, ...] | None:
        entries = look_up(self.ledger_file, content)
        return None if entries is None else tuple(map(_call, entries))


def _call(entry: Entry) -> LedgerCall:
    usage, rejected = entry.completion.usage, entry.completion.rejected
    reasoning = "" if rejected else thinking(entry.completion.text)
    counts = (usage.tokens_in, usage.tokens_cached, usage.tokens_out, usage.seconds)
    return LedgerCall(entry.agent, entry.model, reasoning, rejected, *counts, entry.answered_ms)
