"""Counts the events of the stream into recent popularity, and knows whose events came last."""

import threading
from collections import deque
from collections.abc import Sequence

from reaseq.behavior.history import event_key
from reaseq.ranker.popularity import Popularity
from reaseq.records import Event
from reaseq.representation.item_table import ItemTable
from serving import metrics
from streams.delivery.messages import RawRecord
from streams.delivery.tolerant_decoder import TolerantDecoder
from streams.delivery.topics import EVENTS

ACTIVE_USERS = 200


class EventCounter:
    """Counts what the history stage accepts: invalid records, erasure requests and retracted events do not count.

    Events and their items may arrive in any order, most of all at a cold start. The events of an item that the table does not
    know yet wait for it, `waiting_limit_events` at most: those of the item that has waited longest are dropped first. Safe to
    use from several threads.
    """

    def __init__(self, popularity: Popularity, table: ItemTable, future_limit_s: float, waiting_limit_events: int) -> None:
        self._popularity = popularity
        self._table = table
        self._decoder = TolerantDecoder(EVENTS, future_limit_s)
        self._waiting_limit = waiting_limit_events
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Event]] = {}  # by item, the one that has waited longest first
        self._waiting_events = 0
        self._active_users: deque[str] = deque(maxlen=ACTIVE_USERS)

    def count(self, records: Sequence[RawRecord]) -> None:
        """Count the events among records of the topic."""
        events = self._decode(records)
        self._active_users.extend(event.user_id for event in events)
        with self._lock:
            known = []
            for event in events:
                if self._table.knows(event.item_id):
                    known.append(event)
                else:
                    self._waiting.setdefault(event.item_id, []).append(event)
                    self._waiting_events += 1
            while self._waiting_events > self._waiting_limit:
                self._take(next(iter(self._waiting)))
            self._observe(known)

    def items_arrived(self, item_ids: Sequence[str]) -> None:
        """Count the events that have waited for items, which the table knows by now."""
        with self._lock:
            self._observe([event for item_id in item_ids if item_id in self._waiting for event in self._take(item_id)])

    def active_users(self) -> list[str]:
        """Users with the most recently produced events, newest first."""
        return list(dict.fromkeys(reversed(list(self._active_users))))

    def _decode(self, records: Sequence[RawRecord]) -> list[Event]:
        events: list[Event] = self._decoder.decode_bodies(records)
        return [event for event in events if not event.retracted]

    def _take(self, item_id: str) -> list[Event]:
        events = self._waiting.pop(item_id)
        self._waiting_events -= len(events)
        return events

    def _observe(self, events: Sequence[Event]) -> None:
        metrics.WAITING_EVENTS.set(self._waiting_events)
        rows = self._table.snapshot.rows([event.item_id for event in events])
        keys = [event_key(event.event_id) for event in events]
        self._popularity.observe(rows.cpu().numpy(), [event.event_time_ms for event in events], keys)
