"""Folds deltas of events into the row of one item and source, each delta once.

The stream delivers at least once, so a delta may come again: with the same record of deltas, or because the worker that
found it stopped before it had stored that it did. The row keeps the position in the source up to which it has been applied.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reaseq.aggregates.tiles import Series, drop_expired, pack_tiles, unpack_tiles
from reaseq.records import EventDelta, ItemAggregates


class Applied(NamedTuple):
    """The position in a partition of `events` up to which a row has been applied; -1 for nothing.

    Clocks alone do not decide what is applied, because they may be wrong, and neither do offsets alone: they start again when
    the source topic is created anew. `earlier_ms` is the time up to which the records of its predecessor reached.
    """

    offset: int = -1
    produced_ms: int = -1
    earlier_ms: int = -1

    def covers(self, offset: int, produced_ms: int) -> bool:
        """Whether a delta from this position has been applied: neither its offset nor its timestamp is later."""
        return produced_ms <= self.earlier_ms or (offset <= self.offset and produced_ms <= self.produced_ms)

    def advance(self, offset: int, produced_ms: int) -> "Applied":
        """The position after a delta that it does not cover."""
        if offset > self.offset:
            return Applied(offset, max(produced_ms, self.produced_ms), self.earlier_ms)
        return Applied(offset, produced_ms, self.produced_ms)  # later than all before, at an offset from before: a new topic


class PartialRow:
    """The aggregates of one item, from the events of one source, see `to_source`."""

    def __init__(self, item_id: str, source: str, stored: ItemAggregates | None, kept: Mapping[Series, int]) -> None:
        """`kept` are the series and their tiles, see `kept_series`."""
        self._item_id = item_id
        self._source = source
        self._kept = kept
        self._tiles = unpack_tiles(stored.tiles) if stored else {}
        self._newest_ms = stored.event_time_ms if stored else 0
        self._deltas = stored.deltas if stored else 0
        self._applied = Applied(stored.applied_offset, stored.applied_ms, stored.earlier_ms) if stored else Applied()

    def apply(self, deltas: Sequence[EventDelta]) -> int:
        """Apply the deltas that one record has for this row, unless they have been applied; returns how many are new.

        All of them are checked against the position before the record: several may have one offset.
        """
        new = [delta for delta in deltas if not self._applied.covers(delta.offset, delta.produced_ms)]
        for delta in new:
            self._add(delta)
            if not self._applied.covers(delta.offset, delta.produced_ms):
                self._applied = self._applied.advance(delta.offset, delta.produced_ms)
        self._deltas += len(new)
        return len(new)

    def record(self) -> ItemAggregates:
        """The row's current record."""
        tiles = drop_expired(self._tiles, self._kept, self._newest_ms)
        return ItemAggregates(
            item_id=self._item_id,
            source=self._source,
            event_time_ms=self._newest_ms,
            deltas=self._deltas,
            applied_offset=self._applied.offset,
            applied_ms=self._applied.produced_ms,
            earlier_ms=self._applied.earlier_ms,
            tiles=pack_tiles(tiles),
        )

    def _add(self, delta: EventDelta) -> None:
        self._newest_ms = max(self._newest_ms, delta.time_ms)
        for series in self._kept:
            if series.event_type == delta.event_type and (number := _measure(series, delta)):
                tiles = self._tiles.setdefault(series, {})
                tile = delta.time_ms // series.tile_ms
                tiles[tile] = tiles.get(tile, 0) + number


def _measure(series: Series, delta: EventDelta) -> int:
    """What an event adds to a series, or takes away."""
    if series.measure == "events":
        return delta.sign
    if delta.value is None:
        return 0
    return delta.sign if series.measure == "valued" else delta.sign * delta.value
