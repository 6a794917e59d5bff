"""How often items were taken lately: the context that every ranker needs, and that fades by the hour."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reaseq.days import DAY_MS

HALF_LIVES_DAYS = (1.0, 7.0, 30.0)
SPAN_DAYS = 500  # of the shortest half-life: further from its origin, a count would leave the range of a float
REMEMBERED_EVENTS = 1 << 18  # how far back a repeated event is recognised


class Popularity:
    """Counts of events by item row that fade: count(t) = Σ_events 2^(−(t − t_event) / half-life), one for each half-life.

    An event that comes late counts as if it had come in time; one that comes again does not count.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((len(HALF_LIVES_DAYS), 1024))  # at the origin's time
        self._origin_ms = -1  # before the first event
        self._newest_ms = 0
        self._keys: set[int] = set()
        self._latest: deque[int] = deque()

    def observe(self, rows: NDArray[np.int64], times_ms: Sequence[int], keys: Sequence[int] = ()) -> None:
        """Count events of rows (M,); row 0, the unknown item, is not counted. Equal `keys` are one event."""
        new = np.array([self._is_new(key) for key in keys], bool) if keys else np.ones(len(rows), bool)
        counted = new & (rows > 0)
        if not counted.any():
            return
        rows, times = rows[counted], np.asarray(times_ms, np.int64)[counted]
        self._make_room(int(rows.max()), int(times.max()))
        for place, half_life in enumerate(HALF_LIVES_DAYS):
            np.add.at(self._sums[place], rows, np.exp2(self._days(times) / half_life))
        self._newest_ms = max(self._newest_ms, int(times.max()))

    def counts(self, rows: NDArray[np.int64], now_ms: int) -> NDArray[np.float32]:
        """Faded counts (len(rows), half-lives) at that time, or at the newest event's where that is later."""
        if self._origin_ms < 0:
            return np.zeros((len(rows), len(HALF_LIVES_DAYS)), np.float32)
        known = np.where(rows < self._sums.shape[1], rows, 0)
        fade = np.exp2(-self._days(np.int64(max(now_ms, self._newest_ms))) / np.array(HALF_LIVES_DAYS))  # (W,)
        faded: NDArray[np.float32] = (self._sums[:, known].T * fade).astype(np.float32)
        return faded

    def _days(self, times_ms: NDArray[np.int64] | np.int64) -> NDArray[np.float64]:
        return np.asarray((times_ms - self._origin_ms) / DAY_MS, np.float64)

    def _make_room(self, row: int, time_ms: int) -> None:
        if row >= self._sums.shape[1]:
            more = max(row + 1, 2 * self._sums.shape[1]) - self._sums.shape[1]
            self._sums = np.pad(self._sums, ((0, 0), (0, more)))
        if self._origin_ms < 0:
            self._origin_ms = time_ms
        elif time_ms - self._origin_ms > SPAN_DAYS * DAY_MS:
            self._sums *= np.exp2(-self._days(np.int64(time_ms)) / np.array(HALF_LIVES_DAYS))[:, None]
            self._origin_ms = time_ms

    def _is_new(self, key: int) -> bool:
        if key in self._keys:
            return False
        self._keys.add(key)
        self._latest.append(key)
        if len(self._latest) > REMEMBERED_EVENTS:
            self._keys.remove(self._latest.popleft())
        return True
