"""A user's history: the latest behaviors in order of event time, whatever the order of arrival."""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from msgspec.structs import replace

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
        columns = zip(history.times_ms, history.event_keys, history.item_ids, history.types, strict=True)
        self._behaviors = [Behavior(*row) for row in columns]
        self._retracted = set(history.retracted_keys)
        if self._retracted:
            retracted = zip(history.retracted_ms, history.retracted_keys, strict=True)
            self._behaviors = sorted([*self._behaviors, *(Behavior(*row, "", RETRACTED) for row in retracted)])
        self._keys = {behavior.event_key for behavior in self._behaviors}
        self._forgotten_ms = history.forgotten_ms
        self._request = ErasureRequest(history.erasure_offset, history.erasure_produced_ms)
        self._limit = limit

    def absorb(self, event: Event) -> str:
        """Fold in an event; returns the outcome: `accepted`, `retracted`, `duplicate`, `too_late` or `forgotten`."""
        key = event_key(event.event_id)
        if key in self._keys:
            return self._retract(key) if event.retracted and key not in self._retracted else "duplicate"
        if self._forgotten_ms and event.event_time_ms <= self._forgotten_ms:
            return "forgotten"
        behavior = Behavior(event.event_time_ms, key, event.item_id, TYPE_CODES[event.type])
        if len(self._behaviors) >= self._limit and behavior < self._behaviors[0]:
            return "too_late"
        insort(self._behaviors, behavior)
        self._keys.add(key)
        if len(self._behaviors) > self._limit:
            dropped = self._behaviors.pop(0).event_key
            self._keys.discard(dropped)
            self._retracted.discard(dropped)
        return self._retract(key) if event.retracted else "accepted"

    def _retract(self, key: int) -> str:
        index = next(index for index, behavior in enumerate(self._behaviors) if behavior.event_key == key)
        self._behaviors[index] = Behavior(self._behaviors[index].time_ms, key, "", RETRACTED)
        self._retracted.add(key)
        return "retracted"

    def erase(self, until_ms: int, request: ErasureRequest) -> bool:
        """Erase everything up to `until_ms` or the newest behavior, whichever is later; False if the request is redelivered.

        Clocks do not decide whether it is, because they may be wrong: a request is a redelivery only if neither its offset nor
        its timestamp is later than those of an earlier request. Each request reaches further than the one before.
        """
        if request.offset <= self._request.offset and request.produced_ms <= self._request.produced_ms:
            return False
        self._request = ErasureRequest(*map(max, request, self._request))
        self._forgotten_ms = max(until_ms, self.newest_ms, self._forgotten_ms + 1)
        self._behaviors, self._keys, self._retracted = [], set(), set()
        return True

    @property
    def newest_ms(self) -> int:
        """Event time of the newest behavior, retracted or not; without one, the time up to which the history was erased."""
        return self._behaviors[-1].time_ms if self._behaviors else self._forgotten_ms

    def history(self) -> History:
        """The current history."""
        history = build_history([behavior for behavior in self._behaviors if behavior.type_code], self._forgotten_ms)
        history = replace(history, erasure_offset=self._request.offset, erasure_produced_ms=self._request.produced_ms)
        if not self._retracted:
            return history
        retracted = [behavior for behavior in self._behaviors if behavior.type_code == RETRACTED]
        times_ms, keys = zip(*((behavior.time_ms, behavior.event_key) for behavior in retracted), strict=True)
        return replace(history, retracted_ms=times_ms, retracted_keys=keys)


@dataclass(frozen=True)
class InferenceRequest:
    """One user to infer behaviors for: the history as of the event that made inference due."""

    history: History
    as_of_ms: int
    events_seen: int


def build_history(behaviors: Iterable[Behavior], forgotten_ms: int = 0) -> History:
    """The record of behaviors in order, oldest first."""
    columns = list(zip(*behaviors, strict=True)) or [(), (), (), ()]
    times_ms, event_keys, item_ids, types = columns
    return History(item_ids=item_ids, types=types, times_ms=times_ms, event_keys=event_keys, forgotten_ms=forgotten_ms)


def event_key(event_id: str) -> int:
    """A signed 64-bit hash of an event id, by which duplicates are recognized."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "big", signed=True)
