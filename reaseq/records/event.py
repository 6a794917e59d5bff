"""Events: what users do."""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from reaseq.records.fields import Id, TimeMs

EventType = Literal["view", "click", "cart", "purchase"]

# Histories store the position of a type, so new types go at the end.
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

VALUE_LIMIT = 1e9
VALUE_UNITS = 1_000_000  # values are added up as whole millionths, so that sums are exact

MicroValue = Annotated[int, Meta(ge=-int(VALUE_LIMIT * VALUE_UNITS), le=int(VALUE_LIMIT * VALUE_UNITS))]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="event.1"):
    """One logged behavior of a user.

    The same event sent again with `retracted` is removed. A correction is a retraction and a new event. `value` is a number
    that the event has, such as a price paid, a dwell time or a rating.
    """

    event_id: Id
    user_id: Id
    item_id: Id
    type: EventType
    event_time_ms: TimeMs
    quantity: Annotated[float, Meta(gt=0)] = 1.0
    retracted: bool = False
    value: Annotated[float, Meta(ge=-VALUE_LIMIT, le=VALUE_LIMIT)] | None = None

    @property
    def micro_value(self) -> int | None:
        """The value in whole millionths."""
        return None if self.value is None else round(self.value * VALUE_UNITS)
