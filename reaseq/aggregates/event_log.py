"""The aggregates of items at any moment of a log of events: what a table would have said then."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reaseq.aggregates.aggregate import Aggregate
from reaseq.aggregates.columns import Columns, Entries, Floats, SummedSeries
from reaseq.aggregates.ragged import Ints, expand
from reaseq.records import EVENT_TYPES

CHUNK_ITEMS = 20_000  # items at a moment that are evaluated at once, so that their tiles fit into the cache


@dataclass(frozen=True)
class EventLog:
    """M events of items, in any order."""

    item_ids: Sequence[str]
    times_ms: Ints  # (M,)
    types: Ints  # (M,) positions in EVENT_TYPES
    values: Ints  # (M,) in millionths, 0 where there is none
    valued: NDArray[np.bool_]  # (M,) whether there is a value

    @staticmethod
    def of_purchases(item_ids: Sequence[str], times_ms: Sequence[int] | Ints) -> "EventLog":
        """A log in which every event is a purchase without a value."""
        nothing = np.zeros(len(item_ids), np.int64)
        purchase = nothing + EVENT_TYPES.index("purchase")
        return EventLog(item_ids, np.asarray(times_ms, np.int64), purchase, nothing, nothing.astype(bool))


class LoggedAggregates:
    """Aggregates at a moment, over the events strictly before it, each counted in the tile of its own time."""

    def __init__(self, aggregates: Sequence[Aggregate], events: EventLog, rows: Ints) -> None:
        """`rows` (M,) are those of the events' items; events of row 0, the unknown item, do not count."""
        self._columns = Columns(aggregates)
        self._series = {series: _SeriesLog(events, rows, series, longest) for series, longest in self._columns.longest.items()}

    def evaluate(self, rows: Ints, now_ms: int | Ints, age_ms: int = 0) -> NDArray[np.float32]:
        """The features (…, F) of rows (…) at `now_ms`, which broadcasts to their shape, in the order of `Aggregate.spans`.

        With an age, the events of the last `age_ms` are not known yet.
        """
        flat, times_ms = rows.ravel(), np.broadcast_to(np.asarray(now_ms, np.int64), rows.shape).ravel()
        parts = [
            self._evaluate(flat[start : start + CHUNK_ITEMS], times_ms[start : start + CHUNK_ITEMS], age_ms)
            for start in range(0, max(1, len(flat)), CHUNK_ITEMS)
        ]
        features = np.concatenate(parts)  # (C, F)
        return features.reshape(*rows.shape, features.shape[1])

    def _evaluate(self, rows: Ints, now_ms: Ints, age_ms: int) -> NDArray[np.float32]:
        return self._columns.evaluate(lambda series: self._series[series].entries(rows, now_ms, now_ms - age_ms), now_ms)


class _SeriesLog:
    """The events of one series by row and time, and their sums by row and tile."""

    def __init__(self, events: EventLog, rows: Ints, series: SummedSeries, longest: int) -> None:
        self._tile_ms, self._longest = series.tile_ms, longest
        types = [EVENT_TYPES.index(event_type) for event_type in series.event_types]
        kept = (rows > 0) & np.isin(events.types, types)
        if series.measure != "events":
            kept &= events.valued
        rows, times_ms = rows[kept], events.times_ms[kept]
        numbers = events.values[kept] if series.measure == "sum" else np.ones(len(rows), np.int64)
        self._times = _Range(times_ms)
        self._tiles = _Range(times_ms // series.tile_ms)
        order = np.argsort(self._times.keys(rows, times_ms), kind="stable")
        rows, times_ms = rows[order], times_ms[order]
        self._event_keys = self._times.keys(rows, times_ms)
        self._until = np.append(0, np.cumsum(numbers[order]))  # the sum of the numbers before each event
        tiles = times_ms // series.tile_ms
        self._tile_keys, first = np.unique(self._tiles.keys(rows, tiles), return_index=True)
        self._tile_numbers = tiles[first]
        self._first_events = np.append(first, len(rows))  # of each tile
        self._sums: Floats = np.diff(self._until[self._first_events]).astype(np.float64)  # of each tile

    def entries(self, rows: Ints, now_ms: Ints, before_ms: Ints) -> Entries:
        """The tiles of the longest window that ends `now_ms`, of the events before `before_ms`, the last one in part."""
        last = before_ms // self._tile_ms
        oldest = now_ms // self._tile_ms - self._longest + 1
        start = np.searchsorted(self._tile_keys, self._tiles.keys(rows, oldest))
        end = np.searchsorted(self._tile_keys, self._tiles.keys(rows, last))
        lengths = np.maximum(0, end - start)
        index = expand(start, lengths)
        events_before = np.searchsorted(self._event_keys, self._times.keys(rows, before_ms))
        in_last = self._until[events_before] - self._until[self._first_events[end]]
        return Entries(lengths, self._tile_numbers[index], self._sums[index], last, in_last)


class _Range:
    """The range of some numbers, in which a row and a number become one key: in order of the row, then of the number."""

    def __init__(self, numbers: Ints) -> None:
        self._least = int(numbers.min()) if len(numbers) else 0
        self._count = int(numbers.max(initial=self._least)) - self._least + 2  # one more, after all of them

    def keys(self, rows: Ints, numbers: Ints) -> Ints:
        """The keys; a number beyond the range stands before or after all others of its row."""
        return rows * self._count + np.clip(numbers - self._least, 0, self._count - 1)
