"""What the baselines of the basket task read: every customer's baskets so far, and how well each item sells."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from reaseq.days import DAY_MS

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


class Baseline(Protocol):
    """Ranks all items for a user, from the purchases so far."""

    def score(self, user_id: str, time_ms: int, items: int) -> Scores:
        """Scores (items,) of the rows of the item table."""
        ...


class Purchases:
    """The baskets so far, as rows of the item table. Add each basket after it was ranked, in order of time."""

    def __init__(self) -> None:
        self.baskets: dict[str, list[tuple[int, Rows]]] = defaultdict(list)
        self._weekly_sales, self._counted_ms = np.zeros(0), 0  # decayed until the last basket

    def add(self, user_id: str, time_ms: int, rows: Rows) -> None:
        """Add a basket; items that the table does not know are left out."""
        bought = np.unique(rows[rows > 0])
        self.baskets[user_id].append((time_ms, bought))
        self._weekly_sales = self._decayed(time_ms, items=max(len(self._weekly_sales), int(bought.max(initial=0)) + 1))
        self._weekly_sales[bought] += 1
        self._counted_ms = time_ms

    def of_user(self, user_id: str) -> Sequence[tuple[int, Rows]]:
        """The user's baskets (time in ms, rows), oldest first."""
        return self.baskets.get(user_id, ())

    def weekly_sales(self, time_ms: int, items: int) -> Scores:
        """Sales (items,) that decay with a half-life of a week, as a share of the best seller's."""
        counts = self._decayed(time_ms, items).astype(np.float32)
        return counts / max(float(counts.max()), 1e-9)

    def _decayed(self, time_ms: int, items: int) -> NDArray[np.float64]:
        """The sales (items,) until the last basket, decayed to a time after it."""
        counted = self._weekly_sales[:items] * 2.0 ** (-(time_ms - self._counted_ms) / DAY_MS / 7)
        return np.pad(counted, (0, items - len(counted)))

    def personal_frequency(self, user_id: str, time_ms: int, items: int, half_life_days: float) -> Scores:
        """How often the user bought each item (items,), decayed: Σ_baskets 2^(−age / half-life)."""
        frequency = np.zeros(items, np.float32)
        for bought_ms, rows in self.of_user(user_id):
            frequency[rows] += 2.0 ** (-(time_ms - bought_ms) / DAY_MS / half_life_days)
        return frequency

    def users_items(self, items: int) -> sp.csr_matrix:
        """Which user bought which item (users, items), as zeros and ones."""
        users = [np.unique(np.concatenate([rows for _, rows in baskets])) for baskets in self.baskets.values()]
        row = np.repeat(np.arange(len(users)), [len(rows) for rows in users])
        column = np.concatenate(users) if users else np.zeros(0, np.int64)
        return sp.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=(len(users), items))
