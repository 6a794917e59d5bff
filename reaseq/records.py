"""The records on the topics: items and events in, feature records out.

Records are frozen and validated once, when they are decoded. The `schema` tag holds type and version: a new optional field
keeps the version, any other change needs a new one. Times are milliseconds since the epoch, UTC.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

ID_LIMIT_CHARS = 128
TITLE_LIMIT_CHARS = 1000
ATTRIBUTES_LIMIT = 32
TIME_LIMIT_MS = 4_102_444_800_000  # 2100-01-01; a later time is in the wrong unit

Id = Annotated[str, Meta(min_length=1, max_length=ID_LIMIT_CHARS)]
TimeMs = Annotated[int, Meta(ge=0, le=TIME_LIMIT_MS)]
Count = Annotated[int, Meta(ge=0, le=2**50)]  # twice this is still an exact row version, see features/row_format.py
EventType = Literal["view", "click", "cart", "purchase"]
Status = Literal["text", "reasoned", "delisted"]
Version = tuple[int, int]  # event time in ms, revision; the greater version is the newer record

EVENT_TYPES: tuple[EventType, ...] = ("view", "click", "cart", "purchase")
STATUS_RANK: dict[Status, int] = {"text": 0, "reasoned": 1, "delisted": 1 << 20}  # leaves a million reasoned revisions


class Item(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="item.1"):
    """An item as listed in the catalog."""

    item_id: Id
    title: Annotated[str, Meta(min_length=1, max_length=TITLE_LIMIT_CHARS)]
    event_time_ms: TimeMs
    price: Annotated[float, Meta(ge=0)] | None = None
    seller_id: Annotated[str, Meta(max_length=ID_LIMIT_CHARS)] = ""
    attributes: Annotated[dict[str, Annotated[str, Meta(max_length=TITLE_LIMIT_CHARS)]], Meta(max_length=ATTRIBUTES_LIMIT)] = (
        msgspec.field(default_factory=dict)
    )


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="event.1"):
    """One logged behavior of a user.

    The same event sent again with `retracted` is removed. A correction is a retraction and a new event.
    """

    event_id: Id
    user_id: Id
    item_id: Id
    type: EventType
    event_time_ms: TimeMs
    quantity: Annotated[float, Meta(gt=0)] = 1.0
    retracted: bool = False


class Claim(msgspec.Struct, frozen=True):
    """One statement of product knowledge: `value`, from the closed vocabulary of `group`, applies to the item.

    `reasoner` is the claim's provenance. `evidence` is the verbatim span of the item's text that supports the claim; empty if
    the whole text does.
    """

    group: str
    value: str
    confidence: float
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


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A user's latest behaviors as parallel arrays, oldest first. `event_keys` are 64-bit hashes of the event ids.

    `forgotten_ms` is the time of the user's last erasure request: events up to it are ignored. Retracted events keep their
    times and keys, so that a redelivery does not bring them back.
    """

    item_ids: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    times_ms: tuple[int, ...] = ()
    event_keys: tuple[int, ...] = ()
    forgotten_ms: TimeMs = 0
    retracted_ms: tuple[int, ...] = ()
    retracted_keys: tuple[int, ...] = ()


class Inferred(msgspec.Struct, frozen=True, kw_only=True):
    """Inferred behaviors, most confident first, and their provenance.

    They never enter histories, labels or training positives. `latent` is the denoiser's hidden state, float16.
    """

    item_ids: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    model: str = ""
    as_of_ms: int = 0
    events_seen: Count = 0
    latent: bytes = b""


class UserFeatures(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="user-features.1"):
    """The features of a user. The newest record wins, by (event time, revision, row content)."""

    user_id: str
    event_time_ms: TimeMs
    events_seen: Count
    history: History
    inferred: Inferred = Inferred()

    @property
    def revision(self) -> int:
        """Order among records with equal event time: more events are newer, then behaviors inferred from all of them."""
        return 2 * self.events_seen + (self.inferred.events_seen == self.events_seen)

    @property
    def version(self) -> Version:
        """The greater of two versions belongs to the newer record of the user."""
        return self.event_time_ms, self.revision

    @property
    def entity_id(self) -> str:
        """The user id."""
        return self.user_id


FeatureRecord = ItemFeatures | UserFeatures
