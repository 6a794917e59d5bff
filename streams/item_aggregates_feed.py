"""Feeds the records of `item-aggregates` to a process' table of aggregates."""

import threading
from collections.abc import Sequence

from reaseq.aggregates import AggregateTable
from reaseq.records import ItemAggregates
from reaseq.representation.item_table import ItemTable
from streams.delivery import metrics
from streams.delivery.messages import RawRecord
from streams.delivery.tolerant_decoder import TolerantDecoder
from streams.delivery.topics import ITEM_AGGREGATES


class ItemAggregatesFeed:
    """Applies the records of items that the item table knows; those of others wait for their item.

    Records and items may arrive in any order, most of all at a cold start. At most `waiting_limit` records wait; those of the
    item that has waited longest are dropped first. Safe to use from several threads.
    """

    def __init__(self, aggregates: AggregateTable, items: ItemTable, waiting_limit: int) -> None:
        self._aggregates = aggregates
        self._items = items
        self._waiting_limit = waiting_limit
        self._decoder = TolerantDecoder(ITEM_AGGREGATES)
        self._lock = threading.Lock()
        self._waiting: dict[str, dict[str, ItemAggregates]] = {}  # by item and source, the longest waiting item first
        self._waiting_count = 0

    def apply_records(self, records: Sequence[RawRecord]) -> None:
        """Apply records of the topic; tombstones change nothing."""
        self.apply(self._decoder.decode_bodies(records))

    def apply(self, records: Sequence[ItemAggregates]) -> None:
        """Apply records."""
        with self._lock:
            known = []
            for record in records:
                if self._items.knows(record.item_id):
                    known.append(record)
                else:
                    self._keep_waiting(record)
            while self._waiting_count > self._waiting_limit:
                self._take(next(iter(self._waiting)))
            self._apply_known(known)

    def items_arrived(self, item_ids: Sequence[str]) -> None:
        """Apply the records that have waited for items, which the item table knows by now."""
        with self._lock:
            self._apply_known([record for item_id in item_ids if item_id in self._waiting for record in self._take(item_id)])

    def _keep_waiting(self, record: ItemAggregates) -> None:
        parts = self._waiting.setdefault(record.item_id, {})
        known = parts.get(record.source)
        self._waiting_count += known is None
        if known is None or known.version <= record.version:
            parts[record.source] = record

    def _take(self, item_id: str) -> list[ItemAggregates]:
        parts = self._waiting.pop(item_id)
        self._waiting_count -= len(parts)
        return list(parts.values())

    def _apply_known(self, records: Sequence[ItemAggregates]) -> None:
        metrics.WAITING_AGGREGATES.set(self._waiting_count)
        self._aggregates.apply(self._items.snapshot.rows([record.item_id for record in records]).tolist(), records)
