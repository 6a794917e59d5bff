"""Events: what users do."""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from reaseq.records.fields import Id, TimeMs

EventType = Literal["view", "click", "cart", "purchase"]

# Histories store the position of a type, so new types go at the end.
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)


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
