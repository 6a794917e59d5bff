"""The aggregates of all items as arrays, kept current by the records of the stream."""

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from reaseq.aggregates.aggregate import Aggregate
from reaseq.aggregates.columns import Columns, Entries, SummedSeries
from reaseq.aggregates.ragged import Ints, Ragged
from reaseq.aggregates.tiles import Series, unpack_series
from reaseq.records import ItemAggregates, Version


class Part(NamedTuple):
    """The newest record of an item and a source."""

    version: Version
    tiles: bytes


class AggregateTable:
    """The tiles of each row of the item table, summed over the sources of events. Safe to use from several threads.

    An item has one tile for each span of time in which it had events, 12 bytes in each series, and the record of each source as
    the stream packs it, which the next one of that source replaces.
    """

    def __init__(self, aggregates: Sequence[Aggregate]) -> None:
        self._columns = Columns(aggregates)
        self._lock = threading.Lock()
        self._parts: dict[int, bytes] = {}  # by row: a packed dict[str, Part]
        self._parts_bytes = 0
        self._tiles = {series: Ragged.empty(np.int32, np.float64) for series in self._columns.longest}  # tile and number
        self.newest_ms = 0  # the time of the newest event

    @property
    def nbytes(self) -> int:
        """Bytes of the tiles, spare capacity included, and of the packed records."""
        return self._parts_bytes + sum(tiles.nbytes for tiles in self._tiles.values())

    def apply(self, rows: Sequence[int], records: Sequence[ItemAggregates]) -> None:
        """Apply the records of items with these rows; one that is older than what its source has is ignored."""
        with self._lock:
            parts: dict[int, dict[str, Part]] = {}
            changes = _Changes(self._columns.longest)
            for row, record in zip(rows, records, strict=True):
                known = parts.get(row) or self.parts(row)
                before = known.get(record.source)
                if before and before.version > record.version:
                    continue
                if before:
                    changes.add(row, before.tiles, sign=-1)
                changes.add(row, record.tiles, sign=1)
                parts[row] = {**known, record.source: Part(record.version, record.tiles)}
                self.newest_ms = max(self.newest_ms, record.event_time_ms)
            for row, changed in parts.items():
                packed = _pack(changed)
                self._parts_bytes += len(packed) - len(self._parts.get(row, b""))
                self._parts[row] = packed
            self._tiles = {series: changes.merged(series, tiles) for series, tiles in self._tiles.items()}

    def parts(self, row: int) -> dict[str, Part]:
        """What the row of an item is the sum of, by source."""
        return _unpack_parts(self._parts.get(row, b""))

    def evaluate(self, rows: Ints, now_ms: int | Ints) -> NDArray[np.float32]:
        """The features (…, F) of rows (…) at `now_ms`, which broadcasts to their shape, in the order of `Aggregate.spans`."""
        tiles, flat = self._tiles, rows.ravel()
        nothing_partial = np.zeros((2, len(flat)), np.int64)

        def read(series: SummedSeries) -> Entries:
            lengths, (numbers_of_tiles, numbers) = tiles[series].read(flat)
            return Entries(lengths, numbers_of_tiles, numbers, *nothing_partial)

        times_ms = np.broadcast_to(np.asarray(now_ms, np.int64), rows.shape).ravel()
        features = self._columns.evaluate(read, times_ms)  # (C, F)
        return features.reshape(*rows.shape, features.shape[1])


class _Changes:
    """What records add to the tiles of each series, and what the records that they replace take away."""

    def __init__(self, summed: Iterable[SummedSeries]) -> None:
        self._summed_of: Mapping[Series, list[SummedSeries]] = defaultdict(list)
        for series in summed:
            for event_type in series.event_types:
                self._summed_of[Series(event_type, series.measure, series.tile_ms)].append(series)
        self._columns: dict[SummedSeries, tuple[list[int], list[int], list[int]]] = {
            series: ([], [], [])
            for series in summed  # rows, tiles and numbers
        }

    def add(self, row: int, packed: bytes, sign: int) -> None:
        """Add packed tiles, or take them away."""
        for series, tiles, numbers in unpack_series(packed):
            if summed := self._summed_of.get(series):
                columns = [row] * len(numbers), list(tiles), [sign * number for number in numbers]
                for one in summed:
                    for known, added in zip(self._columns[one], columns, strict=True):
                        known += added

    def merged(self, series: SummedSeries, tiles: Ragged) -> Ragged:
        """The tiles of a series after the changes, in order of time; tiles in which nothing is left are dropped."""
        if not self._columns[series][0]:
            return tiles
        changed_rows, changed_tiles, changes = (np.array(column) for column in self._columns[series])
        rows = np.unique(changed_rows)
        lengths, (known_tiles, known_numbers) = tiles.read(rows)
        keys = np.append(_key(np.repeat(rows, lengths), known_tiles), _key(changed_rows, changed_tiles))
        keys, position = np.unique(keys, return_inverse=True)
        sums = np.bincount(position, np.append(known_numbers, changes))
        keys, sums = keys[sums != 0], sums[sums != 0]
        bounds = np.searchsorted(keys, _key(np.append(rows, rows[-1] + 1), np.zeros(1)))
        return tiles.replace(rows, np.diff(bounds), [keys & _TILE, sums])


_TILE = (1 << 32) - 1


def _key(rows: Ints, tiles: NDArray[np.generic]) -> Ints:
    """One number for a row and a tile, in order of the row and then of time."""
    return (rows << 32) | tiles.astype(np.int64)


_pack = msgspec.msgpack.Encoder().encode
_parts_decoder = msgspec.msgpack.Decoder(dict[str, Part])


def _unpack_parts(packed: bytes) -> dict[str, Part]:
    return _parts_decoder.decode(packed) if packed else {}
