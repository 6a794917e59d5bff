"""Recent sales by day, the prior over items that all users share."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from reaseq.behavior.examples import Basket
from reaseq.days import DAY_MS
from reaseq.representation.item_table import Snapshot

WINDOW_DAYS = 30


class RecentSales:
    """Counts the behaviors of each item in the days before a given day, that day excluded."""

    def __init__(self, events: Iterable[tuple[int, str]], table: Snapshot) -> None:
        """`events` are (time in ms, item id), in any order."""
        times_ms, item_ids = zip(*events, strict=True)
        days = np.asarray(times_ms, np.int64) // DAY_MS
        self._first = int(days.min())
        daily = np.zeros((int(days.max()) - self._first + 2, len(table)), np.int32)
        np.add.at(daily, (days - self._first + 1, table.rows(item_ids).numpy()), 1)
        self._before = daily.cumsum(0, dtype=np.int32)  # (days, N): row k holds the total before day k

    @staticmethod
    def from_baskets(baskets: Sequence[Basket], table: Snapshot) -> "RecentSales":
        """The sales in `baskets`."""
        return RecentSales([(basket.time_ms, item_id) for basket in baskets for item_id in basket.item_ids], table)

    def counts(self, times_ms: Tensor, days: int = WINDOW_DAYS) -> Tensor:
        """Behaviors (B, N) in the `days` days before the day of each time (B,)."""
        last = len(self._before) - 1
        day = (times_ms.numpy() // DAY_MS - self._first).clip(0, last)
        start = (day - days).clip(0, last)
        return torch.from_numpy((self._before[day] - self._before[start]).astype(np.float32))

    def prior(self, times_ms: Tensor) -> Tensor:
        """log(1 + count) over the last 30 days (B, N)."""
        return torch.log1p(self.counts(times_ms))
