"""A user's history: the latest behaviours in order of event time, however their events arrived."""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from reaseq.records import EVENT_TYPES, Event, History

TYPE_CODES = {name: code for code, name in enumerate(EVENT_TYPES, start=1)}


class Behavior(NamedTuple):
    """One entry of a history. The order of the fields is the order of histories: event time, then event."""

    time_ms: int
    event_key: int
    item_id: str
    type_code: int


class HistoryFold:
    """Folds events into a history of at most `limit` behaviours.

    The outcome depends on which events were seen, not on their order: a duplicate changes nothing, a late event finds its
    place, and one older than a full history is dropped.
    """

    def __init__(self, history: History, limit: int) -> None:
        columns = zip(history.times_ms, history.event_keys, history.item_ids, history.types, strict=True)
        self._behaviors = [Behavior(*row) for row in columns]
        self._keys = set(history.event_keys)
        self._limit = limit

    def absorb(self, event: Event) -> str:
        """Take one event in. Returns what became of it: `accepted`, `duplicate` or `too_late`."""
        key = event_key(event.event_id)
        if key in self._keys:
            return "duplicate"
        behavior = Behavior(event.event_time_ms, key, event.item_id, TYPE_CODES[event.type])
        if len(self._behaviors) >= self._limit and behavior < self._behaviors[0]:
            return "too_late"
        insort(self._behaviors, behavior)
        self._keys.add(key)
        if len(self._behaviors) > self._limit:
            self._keys.discard(self._behaviors.pop(0).event_key)
        return "accepted"

    @property
    def newest_ms(self) -> int:
        """Event time of the newest behaviour."""
        return self._behaviors[-1].time_ms

    def snapshot(self) -> list[Behavior]:
        """The behaviours as they stand, oldest first; `history_of` makes a record of them."""
        return list(self._behaviors)


@dataclass(frozen=True)
class Question:
    """What to infer from: a user's history as of the event that made inference due."""

    history: History
    as_of_ms: int
    events_seen: int


def history_of(behaviors: Iterable[Behavior]) -> History:
    """Behaviours, oldest first, as a record."""
    columns = list(zip(*behaviors, strict=True)) or [(), (), (), ()]
    times_ms, event_keys, item_ids, types = columns
    return History(item_ids=item_ids, types=types, times_ms=times_ms, event_keys=event_keys)


def event_key(event_id: str) -> int:
    """A signed 64-bit hash of an event id: what duplicates are recognised by."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "big", signed=True)
