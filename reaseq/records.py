"""The records that travel: items and events in, feature records out.

Each is frozen and validated once, where it enters. The `schema` tag is its type and version: a new optional field keeps
the version, anything else is a new one. Times are milliseconds since the epoch, UTC.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

ID_LIMIT_CHARS = 128
TITLE_LIMIT_CHARS = 1000
ATTRIBUTES_LIMIT = 32
TIME_LIMIT_MS = 4_102_444_800_000  # 2100-01-01: a later time is a unit mistake (seconds, microseconds), not a date

Id = Annotated[str, Meta(min_length=1, max_length=ID_LIMIT_CHARS)]
TimeMs = Annotated[int, Meta(ge=0, le=TIME_LIMIT_MS)]
Count = Annotated[int, Meta(ge=0, le=2**50)]  # twice that still orders rows exactly: see features/row_format.py
EventType = Literal["view", "click", "cart", "purchase"]
Status = Literal["text", "reasoned", "delisted"]
Version = tuple[int, int]  # event time in ms, revision: the greater of two records of an entity is the newer

EVENT_TYPES: tuple[EventType, ...] = ("view", "click", "cart", "purchase")
STATUS_RANK: dict[Status, int] = {"text": 0, "reasoned": 1, "delisted": 1 << 20}  # a million times reasoned come between


class Item(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="item.1"):
    """An item as the catalog has it."""

    item_id: Id
    title: Annotated[str, Meta(min_length=1, max_length=TITLE_LIMIT_CHARS)]
    event_time_ms: TimeMs
    price: Annotated[float, Meta(ge=0)] | None = None
    seller_id: Annotated[str, Meta(max_length=ID_LIMIT_CHARS)] = ""
    attributes: Annotated[dict[str, Annotated[str, Meta(max_length=TITLE_LIMIT_CHARS)]], Meta(max_length=ATTRIBUTES_LIMIT)] = (
        msgspec.field(default_factory=dict)
    )


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="event.1"):
    """One behavior of one user: what the log saw.

    Sent again with `retracted`, it is taken back. What was wrong about it is corrected by a new event.
    """

    event_id: Id
    user_id: Id
    item_id: Id
    type: EventType
    event_time_ms: TimeMs
    quantity: Annotated[float, Meta(gt=0)] = 1.0
    retracted: bool = False


class Claim(msgspec.Struct, frozen=True):
    """One statement of product knowledge: `value` of the closed vocabulary holds in `group`, and who says so.

    `evidence` is the span of the item's text that the claim rests on, word for word; empty where it rests on the whole.
    """

    group: str
    value: str
    confidence: float
    reasoner: str
    evidence: str = ""


class ProductKnowledge(msgspec.Struct, frozen=True, kw_only=True):
    """Structured knowledge about an item: claims out of a closed vocabulary and a few bounded free texts."""

    vocabulary: str
    claims: tuple[Claim, ...]
    product_type: str = ""
    profile: str = ""
    complements: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()

    def values(self, group: str) -> tuple[str, ...]:
        """The claimed values of one group, most confident first as the reasoner gave them."""
        return tuple(claim.value for claim in self.claims if claim.group == group)


class ItemFeatures(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="item-features.2"):
    """The enriched item representation. Newest wins by (event time, stage rank, content of the row).

    `vector` is float16, little endian, of unit length in the space `space_id`. `content` is the hash of the text that
    reasoning sees; `fingerprint` adds who reasoned and on which vocabulary, so that nothing is reasoned twice;
    `reasoned_again` counts how often the same listing was reasoned about anew, under another fingerprint. A delisted item
    keeps its record, without features.
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
        """Order among records of the same event time."""
        return STATUS_RANK[self.status] + self.reasoned_again

    @property
    def version(self) -> Version:
        """Which of two records of the item is newer."""
        return self.event_time_ms, self.revision

    @property
    def entity_id(self) -> str:
        """The item's id."""
        return self.item_id


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A user's latest behaviors, oldest first: parallel arrays. `event_keys` are 64-bit hashes of the event ids.

    The user has asked that everything up to `forgotten_ms` be forgotten. Of events that have been taken back, times and keys
    stay, so that none comes again.
    """

    item_ids: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    times_ms: tuple[int, ...] = ()
    event_keys: tuple[int, ...] = ()
    forgotten_ms: TimeMs = 0
    retracted_ms: tuple[int, ...] = ()
    retracted_keys: tuple[int, ...] = ()


class Inferred(msgspec.Struct, frozen=True, kw_only=True):
    """Behaviors that the log never saw, most confident first, and where they come from.

    They never enter histories, labels or training positives. `latent` is the denoiser's hidden state, float16.
    """

    item_ids: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    model: str = ""
    as_of_ms: int = 0
    events_seen: Count = 0
    latent: bytes = b""


class UserFeatures(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="user-features.1"):
    """A user's features. Newest wins by (event time, revision, content of the row)."""

    user_id: str
    event_time_ms: TimeMs
    events_seen: Count
    history: History
    inferred: Inferred = Inferred()

    @property
    def revision(self) -> int:
        """Order among records of the same event time: more events, then behaviors inferred from all of them."""
        return 2 * self.events_seen + (self.inferred.events_seen == self.events_seen)

    @property
    def version(self) -> Version:
        """Which of two records of the user is newer."""
        return self.event_time_ms, self.revision

    @property
    def entity_id(self) -> str:
        """The user's id."""
        return self.user_id


FeatureRecord = ItemFeatures | UserFeatures
