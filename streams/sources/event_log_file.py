"""A shop's log of events: one event per row."""

from reaseq.knowledge.content import digest
from streams.delivery.topics import EVENTS
from streams.sources.source_file import TIME_UNITS, RowFields, SourceFile
from streams.sources.values import Row, is_blank, to_event_type, to_id, to_quantity

DEFAULT_TYPE = "purchase"
_IDENTIFYING = ("user_id", "item_id", "type", "event_time_ms", "quantity")


class EventLogFile(SourceFile):
    """Events: `user_id`, `item_id` and an event time; optionally `type` (default: purchase), `quantity` and `event_id`.

    A missing `event_id` is derived from the other fields, so that equal rows are one event, however often they are read.
    """

    topic = EVENTS
    key_field = "user_id"
    required = frozenset({"user_id", "item_id"})

    def check_columns(self, columns: set[str]) -> str:
        """One of the columns of an event time is required as well."""
        return "" if columns & TIME_UNITS.keys() else " or ".join(TIME_UNITS)

    def build_message(self, fields: RowFields) -> Row:
        """The message of an event. A quantity of 0 or less refuses the row: a return is no purchase of one piece."""
        message: Row = {
            "schema": "event.1",
            "user_id": fields.require("user_id", to_id),
            "item_id": fields.require("item_id", to_id),
            "type": DEFAULT_TYPE if is_blank(fields.values.get("type")) else fields.require("type", to_event_type),
        }
        time_field = fields.time_field()
        if time_field is None:
            raise fields.refuse("event_time", "is missing", None)
        message["event_time_ms"] = fields.require(time_field, fields.to_time_ms(time_field))
        quantity = fields.take("quantity", to_quantity)
        if quantity is not None:
            if quantity <= 0:
                raise fields.refuse("quantity", "is not above 0", fields.values["quantity"])
            message["quantity"] = quantity
        message["event_id"] = fields.take("event_id", to_id) or digest(*(str(message.get(name)) for name in _IDENTIFYING))
        return message
