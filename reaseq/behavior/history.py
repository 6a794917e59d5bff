"""A user's history: the latest behaviors in order of event time, whatever the order of arrival."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

from reaseq.records import EVENT_TYPES, Event, History

RETRACTED = 0  # type code of a retracted behavior
TYPE_CODES = {name: code for code, name in enumerate(EVENT_TYPES, start=1)}


class Behavior(NamedTuple):
    """One entry of a history. Histories are sorted by these fields in order: event time, then event key.

    A retracted behavior stays in the history without its item, so that the outcome does not depend on when it was retracted.
    """

    time_ms: int
    event_key: int
    item_id: str
    type_code: int
    value: int | None = None  # in millionths


class ErasureRequest(NamedTuple):
    """An erasure request: its offset in its partition, and the timestamp of its record."""

    offset: int
    produced_ms: int


class HistoryFold:
    """Folds events into a history of at most `limit` behaviors.

    The outcome depends on which events were seen, not on their order: a duplicate changes nothing, a late event is inserted by
    its time, and a retraction may arrive before its event. Events older than everything in a full history are dropped, and so
    are events up to the time of an erasure request.
    """

    def __init__(self, history: History, limit: int) -> None:
        self._retracted = set(history.retracted_keys)
        self._columns = _Columns(history.times_ms, history.event_keys, history.item_ids, history.types, history.values)
        for time_ms, key in zip(history.retracted_ms, history.retracted_keys, strict=True):
            self._columns.insert(Behavior(time_ms, key, "", RETRACTED))
        self._keys = set(self._columns.event_keys)
        self._forgotten_ms = history.forgotten_ms
        self._request = ErasureRequest(history.erasure_offset, history.erasure_produced_ms)
        self._limit = limit
        self._changes: list[tuple[Literal[1, -1], Behavior]] = []

    def take_changes(self) -> list[tuple[Literal[1, -1], Behavior]]:
        """The behaviors that have come to count since the last call (1), and those that count no longer (-1), in order.

        A behavior that is dropped because the history is full still counts.
        """
        changes, self._changes = self._changes, []
        return changes

    def absorb(self, event: Event) -> str:
        """Fold in an event; returns the outcome: `accepted`, `retracted`, `duplicate`, `too_late` or `forgotten`."""
        key = event_key(event.event_id)
        if key in self._keys:
            if not event.retracted or key in self._retracted:
                return "duplicate"
            self._changes.append((-1, self._retract(key)))
            return "retracted"
        if self._forgotten_ms and event.event_time_ms <= self._forgotten_ms:
            return "forgotten"
        columns = self._columns
        if len(columns.times_ms) >= self._limit and (event.event_time_ms, key) < columns.oldest:
            return "too_late"
        behavior = Behavior(event.event_time_ms, key, event.item_id, TYPE_CODES[event.type], event.micro_value)
        columns.insert(behavior)
        self._keys.add(key)
        if len(columns.times_ms) > self._limit:
            dropped = columns.drop_oldest()
            self._keys.discard(dropped)
            self._retracted.discard(dropped)
        if event.retracted:
            self._retract(key)
            return "retracted"
        self._changes.append((1, behavior))
        return "accepted"

    def _retract(self, key: int) -> Behavior:
        self._retracted.add(key)
        return self._columns.retract(key)

    def erase(self, until_ms: int, request: ErasureRequest) -> bool:
        """Erase everything up to `until_ms` or the newest behavior, whichever is later; False if the request is redelivered.

        Clocks do not decide whether it is, because they may be wrong: a request is a redelivery only if neither its offset nor
        its timestamp is later than those of an earlier request. Each request reaches further than the one before.
        """
        if request.offset <= self._request.offset and request.produced_ms <= self._request.produced_ms:
            return False
        self._request = ErasureRequest(*map(max, request, self._request))
        self._forgotten_ms = max(until_ms, self.newest_ms, self._forgotten_ms + 1)
        self._changes += [(-1, behavior) for behavior in self._columns if behavior.type_code != RETRACTED]
        self._columns, self._keys, self._retracted = _Columns(), set(), set()
        return True

    @property
    def newest_ms(self) -> int:
        """Event time of the newest behavior, retracted or not; without one, the time up to which the history was erased."""
        return self._columns.times_ms[-1] if self._columns.times_ms else self._forgotten_ms

    def history(self) -> History:
        """The current history."""
        columns, retracted = self._columns, _Columns()
        if self._retracted:
            columns, retracted = columns.split_retracted()
        return History(
            item_ids=tuple(columns.item_ids),
            types=tuple(columns.types),
            times_ms=tuple(columns.times_ms),
            event_keys=tuple(columns.event_keys),
            values=columns.known_values(),
            forgotten_ms=self._forgotten_ms,
            retracted_ms=tuple(retracted.times_ms),
            retracted_keys=tuple(retracted.event_keys),
            erasure_offset=self._request.offset,
            erasure_produced_ms=self._request.produced_ms,
        )


class _Columns:
    """Behaviors in order, by columns: folding an event into a long history must not build an object for each behavior."""

    def __init__(
        self,
        times_ms: Iterable[int] = (),
        event_keys: Iterable[int] = (),
        item_ids: Iterable[str] = (),
        types: Iterable[int] = (),
        values: Iterable[int | None] = (),
    ) -> None:
        self.times_ms, self.event_keys, self.item_ids, self.types = [*times_ms], [*event_keys], [*item_ids], [*types]
        self.values = [*values] or [None] * len(self.times_ms)

    def __iter__(self) -> Iterator[Behavior]:
        """The behaviors in order."""
        columns = (self.times_ms, self.event_keys, self.item_ids, self.types, self.values)
        return map(Behavior._make, zip(*columns, strict=True))

    @property
    def oldest(self) -> tuple[int, int]:
        """Time and key of the first behavior."""
        return self.times_ms[0], self.event_keys[0]

    def insert(self, behavior: Behavior) -> None:
        """Insert a behavior in order; its key must be new."""
        start = bisect_left(self.times_ms, behavior.time_ms)
        end = bisect_right(self.times_ms, behavior.time_ms, start)
        index = bisect_left(self.event_keys, behavior.event_key, start, end)  # those of one time are ordered by key
        self.times_ms.insert(index, behavior.time_ms)
        self.event_keys.insert(index, behavior.event_key)
        self.item_ids.insert(index, behavior.item_id)
        self.types.insert(index, behavior.type_code)
        self.values.insert(index, behavior.value)

    def drop_oldest(self) -> int:
        """Drop the first behavior; returns its key."""
        del self.times_ms[0], self.item_ids[0], self.types[0], self.values[0]
        return self.event_keys.pop(0)

    def retract(self, key: int) -> Behavior:
        """Take the item from the behavior with that key; returns the behavior as it was."""
        index = self.event_keys.index(key)
        behavior = Behavior(self.times_ms[index], key, self.item_ids[index], self.types[index], self.values[index])
        self.item_ids[index], self.types[index], self.values[index] = "", RETRACTED, None
        return behavior

    def split_retracted(self) -> tuple["_Columns", "_Columns"]:
        """The behaviors that are not retracted, and those that are."""
        rows = list(self)
        kept, retracted = ([row for row in rows if (row.type_code == RETRACTED) is value] for value in (False, True))
        return _Columns(*zip(*kept, strict=True)), _Columns(*zip(*retracted, strict=True))

    def known_values(self) -> tuple[int | None, ...]:
        """The values, or none at all if no behavior has one."""
        return tuple(self.values) if self.values.count(None) < len(self.values) else ()


@dataclass(frozen=True)
class InferenceRequest:
    """One user to infer behaviors for: the history as of the event that made inference due."""

    history: History
    as_of_ms: int
    events_seen: int


def build_history(behaviors: Iterable[Behavior], forgotten_ms: int = 0) -> History:
    """The record of behaviors in order, oldest first."""
    columns = list(zip(*behaviors, strict=True)) or [()] * len(Behavior._fields)
    times_ms, event_keys, item_ids, types, _ = columns
    return History(item_ids=item_ids, types=types, times_ms=times_ms, event_keys=event_keys, forgotten_ms=forgotten_ms)


def event_key(event_id: str) -> int:
    """A signed 64-bit hash of an event id, by which duplicates are recognized."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "big", signed=True)
