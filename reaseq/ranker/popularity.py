"""Recent popularity: event counts per item that decay with time."""

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reaseq.days import DAY_MS

HALF_LIVES_DAYS = (1.0, 7.0, 30.0)
SPAN_DAYS = 500  # further from the origin, counts of the shortest half-life would exceed the range of a float
REMEMBERED_EVENTS = 1 << 18  # how many of the latest events are recognized when they are repeated


class Popularity:
    """Decaying event counts by item row: count(t) = Σ_events 2^(−(t − t_event) / half-life), one for each half-life.

    A late event counts as if it had arrived in time; a repeated one does not count. Safe to use from several threads: one
    observes events while others read counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums = np.zeros((len(HALF_LIVES_DAYS), 1024))  # at the time of the origin
        self._origin_ms = -1  # until the first event
        self._newest_ms = 0
        self._keys: set[int] = set()
        self._latest: deque[int] = deque()

    def observe(self, rows: NDArray[np.int64], times_ms: Sequence[int], keys: Sequence[int] = ()) -> None:
        """Count events of rows (M,), except row 0, the unknown item. Events with equal `keys` are the same event."""
        with self._lock:
            new = np.array([self._is_new(key) for key in keys], bool) if keys else np.ones(len(rows), bool)
            counted = new & (rows > 0)
            if not counted.any():
                return
            rows, times = rows[counted], np.asarray(times_ms, np.int64)[counted]
            self._grow(int(rows.max()))
            self._move_origin(int(times.max()))
            for index, half_life in enumerate(HALF_LIVES_DAYS):
                np.add.at(self._sums[index], rows, np.exp2(self._days(times, self._origin_ms) / half_life))
            self._newest_ms = max(self._newest_ms, int(times.max()))

    def counts(self, rows: NDArray[np.int64], now_ms: int) -> NDArray[np.float32]:
        """Decayed counts (len(rows), half-lives) at `now_ms`, or at the newest event if that is later."""
        with self._lock:  # only to copy a consistent state
            origin_ms, newest_ms = self._origin_ms, self._newest_ms
            sums = self._sums[:, np.where(rows < self._sums.shape[1], rows, 0)]  # (half-lives, len(rows)), a copy
        if origin_ms < 0:
            return np.zeros((len(rows), len(HALF_LIVES_DAYS)), np.float32)
        decay = np.exp2(-self._days(np.int64(max(now_ms, newest_ms)), origin_ms) / np.array(HALF_LIVES_DAYS))
        counts: NDArray[np.float32] = (sums.T * decay).astype(np.float32)
        return counts

    @staticmethod
    def _days(times_ms: NDArray[np.int64] | np.int64, origin_ms: int) -> NDArray[np.float64]:
        """Days since the origin."""
        return np.asarray((times_ms - origin_ms) / DAY_MS, np.float64)

    def _grow(self, row: int) -> None:
        """Make room for a row."""
        if row >= self._sums.shape[1]:
            added = max(row + 1, 2 * self._sums.shape[1]) - self._sums.shape[1]
            self._sums = np.pad(self._sums, ((0, 0), (0, added)))

    def _move_origin(self, time_ms: int) -> None:
        """Move the origin to `time_ms` if it is more than SPAN_DAYS older, and rescale the sums."""
        if self._origin_ms < 0:
            self._origin_ms = time_ms
        elif time_ms - self._origin_ms > SPAN_DAYS * DAY_MS:
            self._sums *= np.exp2(-self._days(np.int64(time_ms), self._origin_ms) / np.array(HALF_LIVES_DAYS))[:, None]
            self._origin_ms = time_ms

    def _is_new(self, key: int) -> bool:
        if key in self._keys:
            return False
        self._keys.add(key)
        self._latest.append(key)
        if len(self._latest) > REMEMBERED_EVENTS:
            self._keys.remove(self._latest.popleft())
        return True
