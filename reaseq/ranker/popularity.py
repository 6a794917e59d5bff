"""How often items were taken lately: the context that every ranker needs and that ages by the day."""

import numpy as np
from numpy.typing import NDArray

from reaseq.days import DAY_MS

WINDOWS_DAYS = (7, 30)
_RING_DAYS = max(WINDOWS_DAYS) + 1


class Popularity:
    """Counts of events by item row: in all, and over the last days. The newest event's day is today."""

    def __init__(self) -> None:
        self._total = np.zeros(1024, np.int64)
        self._daily = np.zeros((_RING_DAYS, 1024), np.int32)  # (days, rows), a ring
        self._today = 0

    def observe(self, row: int, time_ms: int) -> None:
        """Count one event. One older than the longest window counts in the total alone."""
        if row >= len(self._total):
            self._grow(row)
        day = time_ms // DAY_MS
        self._turn_to(day)
        self._total[row] += 1
        if day > self._today - _RING_DAYS:
            self._daily[day % _RING_DAYS, row] += 1

    def counts(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Counts (len(rows), 1 + windows): in all, then over each of WINDOWS_DAYS."""
        known = np.where(rows < len(self._total), rows, 0)
        columns = [self._total[known]]
        for days in WINDOWS_DAYS:
            ring = [(self._today - back) % _RING_DAYS for back in range(days)]
            columns.append(self._daily[ring][:, known].sum(axis=0))
        return np.stack(columns, axis=1).astype(np.float32)

    def _turn_to(self, day: int) -> None:
        for passed in range(max(self._today + 1, day - _RING_DAYS + 1), day + 1):
            self._daily[passed % _RING_DAYS] = 0
        self._today = max(self._today, day)

    def _grow(self, row: int) -> None:
        more = max(row + 1, 2 * len(self._total)) - len(self._total)
        self._total = np.pad(self._total, (0, more))
        self._daily = np.pad(self._daily, ((0, 0), (0, more)))
