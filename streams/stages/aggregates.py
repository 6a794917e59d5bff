"""The aggregates stage: applies deltas of events to the aggregates of their items, each delta once."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from reaseq.aggregates import Aggregate, PartialRow, kept_series
from reaseq.records import EventDelta, EventDeltas, ItemAggregates, to_part_id
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import EVENT_DELTAS


class AggregateReader(Protocol):
    """Reads the current aggregates."""

    def read_aggregates(self, part_ids: Sequence[str]) -> dict[str, ItemAggregates]:
        """Records by source and item, see `to_part_id`; unknown ones are left out."""
        ...


class AggregatesStage:
    """Keeps a row for each item and source, so a hot item has as many writers as the topic has partitions.

    A batch writes a row once, however many deltas it has for it: the batch policy's wait is how stale a row may be.
    """

    name = "aggregates"
    source = EVENT_DELTAS

    def __init__(self, store: AggregateReader, aggregates: Sequence[Aggregate], batch: BatchPolicy) -> None:
        self.batch = batch
        self._store = store
        self._kept = kept_series(aggregates)

    async def process(self, batch: Sequence[Message]) -> Effects:
        """One record for each row with new deltas."""
        records = [_by_row(message.body) for message in batch]
        part_ids = list({part_id: None for deltas in records for part_id in deltas})
        known = await asyncio.to_thread(self._store.read_aggregates, part_ids)
        rows: dict[str, PartialRow] = {}
        changed: dict[str, PartialRow] = {}
        counts: Counter[str] = Counter()
        for by_row in records:
            for part_id, deltas in by_row.items():
                row = rows.get(part_id) or self._open(part_id, deltas[0], known)
                rows[part_id] = row
                new = row.apply(deltas)
                counts["applied"] += new
                counts["redelivered"] += len(deltas) - new
                if new:
                    changed[part_id] = row
        return Effects([row.record() for row in changed.values()], counts)

    def _open(self, part_id: str, delta: EventDelta, known: Mapping[str, ItemAggregates]) -> PartialRow:
        return PartialRow(delta.item_id, delta.source, known.get(part_id), self._kept)


def _by_row(record: EventDeltas) -> dict[str, list[EventDelta]]:
    deltas: dict[str, list[EventDelta]] = {}
    for delta in record:
        deltas.setdefault(to_part_id(delta.source, delta.item_id), []).append(delta)
    return deltas
