"""Rows of different lengths in parallel arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """N rows, each a stretch of the columns. A stretch is written once: a changed row points to another one.

    So a reader keeps what it has while a writer makes the next version. Only the newest version may be changed, because
    versions share their columns.
    """

    starts: Ints  # (N,)
    lengths: Ints  # (N,)
    columns: tuple[NDArray[Any], ...]
    used: int = 0  # of the columns

    @staticmethod
    def empty(*dtypes: DTypeLike) -> "Ragged":
        """A single row, which is empty, in columns of these types."""
        return Ragged(np.zeros(1, np.int64), np.zeros(1, np.int64), tuple(np.zeros(0, dtype) for dtype in dtypes))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, spare capacity included."""
        return self.starts.nbytes + self.lengths.nbytes + sum(column.nbytes for column in self.columns)

    def read(self, rows: Ints) -> tuple[Ints, list[NDArray[Any]]]:
        """How many entries each row has, and the entries' columns, row by row. A row beyond the last is empty."""
        known = np.where(rows < len(self.starts), rows, 0)
        lengths = np.where(rows == known, self.lengths[known], 0)
        index = expand(self.starts[known], lengths)
        return lengths, [column[index] for column in self.columns]

    def replace(self, rows: Ints, lengths: Ints, columns: Sequence[NDArray[Any]]) -> "Ragged":
        """With different rows replaced, whose entries are in the columns row by row."""
        count = max(len(self.starts), int(rows.max(initial=0)) + 1)
        starts, kept = (np.pad(array, (0, count - len(array))) for array in (self.starts, self.lengths))
        kept[rows] = 0
        version = Ragged(starts, kept, self.columns, self.used)
        if self.used + len(columns[0]) > len(self.columns[0]):
            version = version._with_room_for(len(columns[0]))
        end = version.used + len(columns[0])
        for column, added in zip(version.columns, columns, strict=True):
            column[version.used : end] = added
        version.starts[rows] = version.used + np.cumsum(lengths) - lengths
        version.lengths[rows] = lengths
        return Ragged(version.starts, version.lengths, version.columns, end)

    def _with_room_for(self, entries: int) -> "Ragged":
        """A copy in new columns, without the stretches that no row points to."""
        index = expand(self.starts, self.lengths)
        capacity = 2 * (len(index) + entries)
        columns = tuple(np.zeros(capacity, column.dtype) for column in self.columns)
        for column, old in zip(columns, self.columns, strict=True):
            column[: len(index)] = old[index]
        return Ragged(np.cumsum(self.lengths) - self.lengths, self.lengths, columns, len(index))


def expand(starts: Ints, lengths: Ints) -> Ints:
    """The indices in the stretches [start, start + length), one stretch after the other."""
    ends = np.cumsum(lengths)
    index: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return index
