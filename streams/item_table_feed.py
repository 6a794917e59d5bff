"""Feeds the records of `item-features` to a process' item table."""

from collections.abc import Callable, Sequence

import structlog

from reaseq.records import ItemFeatures
from reaseq.representation.item_table import ItemTable
from streams.delivery.messages import RawRecord
from streams.delivery.tolerant_decoder import TolerantDecoder
from streams.delivery.topics import ITEM_FEATURES

log = structlog.get_logger()


class ItemTableFeed:
    """Applies item features to a table, and tells `arrived` the ids of the items that the table then knows.

    A record that the table cannot hold leaves the item as it is, and is counted as skipped.
    """

    def __init__(self, table: ItemTable, arrived: Callable[[Sequence[str]], None]) -> None:
        self._table = table
        self._arrived = arrived
        self._decoder = TolerantDecoder(ITEM_FEATURES)

    def apply_records(self, records: Sequence[RawRecord]) -> None:
        """Apply records of the topic; tombstones change nothing."""
        self.apply(self._decoder.decode_bodies(records))

    def apply(self, features: Sequence[ItemFeatures]) -> None:
        """Apply features."""
        for rejection in self._table.apply(features):
            log.warning("item_skipped", item_id=rejection.record.item_id, error=str(rejection.error))
            self._decoder.count_skipped(rejection.error.reason)
        self._arrived([feature.item_id for feature in features if self._table.knows(feature.item_id)])
