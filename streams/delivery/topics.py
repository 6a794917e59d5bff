"""The topics: message type, key, cleanup policy and retention of each."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from reaseq.records import (
    ID_LIMIT_CHARS,
    SOURCE_LIMIT_CHARS,
    Event,
    EventDeltas,
    Item,
    ItemAggregates,
    ItemFeatures,
    UserFeatures,
    to_part_id,
)

WEEK_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Topic:
    """A topic of one message type. The key is the entity, so one worker owns an entity at a time.

    `source_key` is the key of the messages that a record is made from, if it is another than that of the record.
    """

    name: str
    message: type
    key: Callable[[Any], str]
    cleanup: Literal["compact", "delete", "compact,delete"]
    retention_ms: int | None = None
    null_meaning: str = ""  # what a null value means; if empty, a null value is invalid
    personal: bool = False  # the key is a user's id, so neither it nor what quotes it may be logged
    key_limit_chars: int = ID_LIMIT_CHARS
    source_key: Callable[[Any], str] | None = None


NO_RECORD = "the entity no longer has a record"

ITEMS = Topic("items", Item, attrgetter("item_id"), "compact", null_meaning="the item is delisted")
EVENTS = Topic(
    "events", Event, attrgetter("user_id"), "delete", 5 * WEEK_MS, null_meaning="the user requests erasure", personal=True
)
ITEM_FEATURES = Topic("item-features", ItemFeatures, attrgetter("item_id"), "compact", null_meaning=NO_RECORD)
USER_FEATURES = Topic("user-features", UserFeatures, attrgetter("user_id"), "compact", null_meaning=NO_RECORD, personal=True)
# Deltas of one source stay in order, and one worker at a time writes the rows that come from them.
EVENT_DELTAS = Topic("event-deltas", EventDeltas, attrgetter("source"), "delete", WEEK_MS)
ITEM_AGGREGATES = Topic(
    "item-aggregates",
    ItemAggregates,
    attrgetter("entity_id"),
    "compact",
    null_meaning=NO_RECORD,
    key_limit_chars=SOURCE_LIMIT_CHARS + len(to_part_id("", "")) + ID_LIMIT_CHARS,
    source_key=EVENT_DELTAS.key,
)
# Carries the failed bytes unchanged, so it has no message type of its own. A tombstone deletes a dead letter.
DEAD_LETTERS = Topic("dead-letters", bytes, str, "compact,delete", 4 * WEEK_MS)

FEATURE_TOPICS = (ITEM_FEATURES, USER_FEATURES, ITEM_AGGREGATES)
TOPICS = (ITEMS, EVENTS, EVENT_DELTAS, *FEATURE_TOPICS, DEAD_LETTERS)
TOPIC_BY_MESSAGE: dict[type, Topic] = {topic.message: topic for topic in TOPICS}
