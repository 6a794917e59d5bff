"""The topics: what each carries, by which key, and how long."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from reaseq.records import Event, Item, ItemFeatures, UserFeatures

DEAD_LETTER_MARGIN_BYTES = 64 * 1024  # what headers add to the bytes of a record that died
WEEK_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Topic:
    """A topic of one message type. The key is the entity, so one worker owns an entity at a time.

    `nulls`: what a message without a value means; empty where it means nothing.
    """

    name: str
    message: type
    key: Callable[[Any], str]
    cleanup: Literal["compact", "delete", "compact,delete"]
    retention_ms: int | None = None
    nulls: str = ""


GONE = "there is no record any more"

ITEMS = Topic("items", Item, attrgetter("item_id"), "compact", nulls="the item is no longer on sale")
EVENTS = Topic("events", Event, attrgetter("user_id"), "delete", 5 * WEEK_MS, nulls="the user asks to be forgotten")
ITEM_FEATURES = Topic("item-features", ItemFeatures, attrgetter("item_id"), "compact", nulls=GONE)
USER_FEATURES = Topic("user-features", UserFeatures, attrgetter("user_id"), "compact", nulls=GONE)
# Carries the bytes that failed, unchanged, so it has no message type of its own. A tombstone takes a letter away.
DEAD_LETTERS = Topic("dead-letters", bytes, str, "compact,delete", 4 * WEEK_MS)

TOPICS = (ITEMS, EVENTS, ITEM_FEATURES, USER_FEATURES, DEAD_LETTERS)
TOPIC_OF: dict[type, Topic] = {topic.message: topic for topic in TOPICS}
