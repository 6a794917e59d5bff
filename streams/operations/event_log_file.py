"""A shop's log of events: one event per row."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path

from reaseq.knowledge.content import digest
from reaseq.records import TIME_LIMIT_MS
from streams.delivery.topics import EVENTS
from streams.operations.source_file import SourceFile
from streams.operations.source_values import TIME_COLUMNS, Row, to_event_time_ms, to_number, to_text

_IDENTIFYING = ("user_id", "item_id", "type", "event_time_ms", "quantity")


class EventLogFile(SourceFile):
    """Events: `user_id`, `item_id` and an event time; optionally `type` (default: purchase), `quantity` and `event_id`.

    A missing `event_id` is derived from the other fields, so that equal rows are one event, however often they are read.

    Events are sorted by event time, whatever the file's order, and end before `until_ms`. Only in that order does the archive
    record what was known of a user before each event. The sort keeps the whole log in memory.
    """

    topic = EVENTS
    required = frozenset({"user_id", "item_id"})

    def __init__(self, path: Path, names: Mapping[str, str] | None = None, until_ms: int = TIME_LIMIT_MS) -> None:
        super().__init__(path, names)
        if not TIME_COLUMNS & set(self.columns):
            raise self._missing_column(" or ".join(sorted(TIME_COLUMNS)))
        events = sorted(super().messages(), key=_sort_time_ms)
        self._events = events[: bisect_left(events, until_ms, key=_sort_time_ms)]

    def __len__(self) -> int:
        return len(self._events)

    def messages(self) -> Iterator[Row]:
        """The events in order of event time. Those without a valid time come first."""
        return iter(self._events)

    def _build_message(self, row: Row) -> Row:
        message: Row = {name: to_text(row[name]) for name in ("user_id", "item_id", "event_id") if name in row}
        message |= {"type": to_text(row.get("type", "purchase")), "event_time_ms": to_event_time_ms(row, None)}
        message |= {"quantity": to_number(row["quantity"])} if "quantity" in row else {}
        message.setdefault("event_id", digest(*(str(message.get(name)) for name in _IDENTIFYING)))
        return {"schema": "event.1", **message}


def _sort_time_ms(message: Row) -> int:
    time_ms = message["event_time_ms"]
    return time_ms if isinstance(time_ms, int) else -1
