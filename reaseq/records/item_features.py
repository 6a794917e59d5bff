"""The feature record of an item: its text, its knowledge and its vector."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from reaseq.records.fields import TimeMs, Version

Status = Literal["text", "reasoned", "delisted"]

STATUS_RANK: dict[Status, int] = {"text": 0, "reasoned": 1, "delisted": 1 << 20}  # leaves room for a million reasoned revisions


class Claim(msgspec.Struct, frozen=True):
    """One statement of product knowledge: `value`, from the closed vocabulary of `group`, applies to the item.

    `reasoner` is the claim's provenance. `evidence` is the verbatim span of the item's text that supports the claim; empty if
    the whole text does.
    """

    group: str
    value: str
    confidence: Annotated[float, Meta(ge=0, le=1)]
    reasoner: str
    evidence: str = ""


class ProductKnowledge(msgspec.Struct, frozen=True, kw_only=True):
    """Structured knowledge about an item: claims from a closed vocabulary and a few bounded free-text fields."""

    vocabulary: str
    claims: tuple[Claim, ...]
    product_type: str = ""
    profile: str = ""
    complements: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()

    def values(self, group: str) -> tuple[str, ...]:
        """The claimed values of a group, in the reasoner's order: most confident first."""
        return tuple(claim.value for claim in self.claims if claim.group == group)


class ItemFeatures(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="item-features.2"):
    """The enriched representation of an item. The newest record wins, by (event time, status rank, row content).

    `vector` is a unit vector in the space `space_id`, float16, little endian. `content` is the hash of the text that reasoning
    sees. `fingerprint` adds the reasoner and the vocabulary, so nothing is reasoned twice. `reasoned_again` counts how often
    the same listing was reasoned about again under another fingerprint. A delisted item keeps a record without features.
    """

    item_id: str
    event_time_ms: TimeMs
    listed_ms: TimeMs
    status: Status
    title: str = ""
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    price: float | None = None
    space_id: str = ""
    vector: bytes = b""
    content: str = ""
    fingerprint: str = ""
    knowledge: ProductKnowledge | None = None
    seller_id: str = ""
    reasoned_again: Annotated[int, Meta(ge=0, lt=STATUS_RANK["delisted"])] = 0

    @property
    def revision(self) -> int:
        """Order among records with equal event time."""
        return STATUS_RANK[self.status] + self.reasoned_again

    @property
    def version(self) -> Version:
        """The greater of two versions belongs to the newer record of the item."""
        return self.event_time_ms, self.revision

    @property
    def entity_id(self) -> str:
        """The item id."""
        return self.item_id
