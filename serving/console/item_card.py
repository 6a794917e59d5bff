"""An item's card: its listing, its knowledge with provenance, its neighbors, and what reasoning about it cost."""

from dataclasses import dataclass
from pathlib import Path

from features.repository import FeatureRepository
from reaseq import float16
from reaseq.artifacts import current, is_published
from reaseq.errors import ArtifactError
from reaseq.knowledge.agents.answers import extract_reasoning
from reaseq.knowledge.llm.ledger import Entry, look_up
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim, ItemFeatures, ProductKnowledge, Status
from reaseq.representation.item_table import ItemTable
from reaseq.representation.semantic_ids import KIND as SEMANTIC_IDS
from reaseq.representation.semantic_ids import Codebook, format_semantic_id, semantic_id
from serving.console.titles import read_titles

NEIGHBORS = 10


@dataclass(frozen=True)
class DefinedClaim:
    """A claim with the vocabulary's definition of its value, and the agent whose question it answers."""

    group: str
    value: str
    agent: str  # the agent that answers for the group; like the definition, empty if this service's vocabulary lacks it
    definition: str
    confidence: float
    reasoner: str
    evidence: str  # empty: the claim rests on the whole text


@dataclass(frozen=True)
class Neighbor:
    """An item on sale with a similar content vector."""

    item_id: str
    title: str
    cosine: float
    shared_claims: int


@dataclass(frozen=True)
class LedgerCall:
    """One answered language-model call about the item's text."""

    agent: str
    model: str
    reasoning: str
    rejected: str  # why the answer was rejected; empty if it was accepted
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    seconds: float
    answered_ms: int


@dataclass(frozen=True)
class ItemCard:
    """Everything that is known about an item."""

    item_id: str
    status: Status
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
    semantic_id: str  # empty if no codebook is published for this space
    served: bool  # whether this service's item table has the item
    neighbors: tuple[Neighbor, ...]
    calls: tuple[LedgerCall, ...] | None  # None if this machine has no readable ledger


@dataclass(frozen=True)
class ItemCards:
    """Builds cards from the store, the item table, the published codebook and the ledger."""

    store: FeatureRepository
    table: ItemTable
    vocabulary: Vocabulary
    models_dir: Path
    ledger_file: Path

    def read(self, item_id: str) -> ItemCard | None:
        """The item's card, or None if the store does not know the item. Raises StoreUnavailable."""
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
            claims=tuple(map(self._define, knowledge.claims)),
            semantic_id=self._semantic_id(record),
            served=self.table.knows(item_id),
            neighbors=self._neighbors(item_id),
            calls=self._calls(record.content),
        )

    def _define(self, claim: Claim) -> DefinedClaim:
        groups = {group.name: group for group in self.vocabulary.groups}
        group = groups.get(claim.group)
        agent, definition = (group.agent, group.values.get(claim.value, "")) if group else ("", "")
        return DefinedClaim(claim.group, claim.value, agent, definition, claim.confidence, claim.reasoner, claim.evidence)

    def _neighbors(self, item_id: str) -> tuple[Neighbor, ...]:
        table = self.table.snapshot
        row = int(table.rows([item_id])[0])
        if not row:
            return ()
        nearest = [(table.ids[other], other, cosine) for other, cosine in table.neighbors(row, NEIGHBORS)]
        titles, claims = read_titles(self.store, [other_id for other_id, _, _ in nearest]), table.get_claims(row)
        return tuple(
            Neighbor(other_id, titles.get(other_id, ""), cosine, len(claims & table.get_claims(other)))
            for other_id, other, cosine in nearest
        )

    def _semantic_id(self, record: ItemFeatures) -> str:
        if not record.vector or not is_published(self.models_dir, SEMANTIC_IDS):
            return ""
        try:
            codebook = Codebook.load(current(self.models_dir, SEMANTIC_IDS))
        except ArtifactError:
            return ""  # the list of models says what is wrong
        if codebook.space_id != record.space_id:
            return ""
        vector = float16.unpack(record.vector)
        return format_semantic_id(semantic_id(record.item_id, codebook.encode(vector[None], record.space_id)[0]))

    def _calls(self, content: str) -> tuple[LedgerCall, ...] | None:
        entries = look_up(self.ledger_file, content)
        return None if entries is None else tuple(map(_to_call, entries))


def _to_call(entry: Entry) -> LedgerCall:
    usage, rejected = entry.completion.usage, entry.completion.rejected
    reasoning = "" if rejected else extract_reasoning(entry.completion.text)
    counts = (usage.tokens_in, usage.tokens_cached, usage.tokens_out, usage.seconds)
    return LedgerCall(entry.agent, entry.model, reasoning, rejected, *counts, entry.answered_ms)
