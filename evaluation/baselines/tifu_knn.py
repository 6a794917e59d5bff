"""TIFU-KNN: next-basket recommendation from temporal frequencies of the user and of similar users (Hu et al. 2020)."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from evaluation.baselines.purchases import Purchases, Rows, Scores


class TifuKnn:
    """Each user is a vector of decayed item frequencies; the score mixes the user's own vector with its nearest neighbors'.

    A user's baskets are split into groups of `group_baskets`, the last one full. Within a group, the basket that is k from its
    end weighs `basket_decay`^k; the group that is k from the last weighs `group_decay`^k. With u the user's vector and N its
    `neighbors` nearest vectors by Euclidean distance:

    score = α · u + (1 − α) · mean(N) + weight · sales / best seller's sales.
    """

    def __init__(
        self,
        purchases: Purchases,
        items: int,
        group_baskets: int = 1,
        basket_decay: float = 1.0,
        group_decay: float = 0.9,
        neighbors: int = 300,
        own_share: float = 0.9,
        sales_weight: float = 0.01,
    ) -> None:
        self._purchases, self._items = purchases, items
        self._group_baskets, self._basket_decay, self._group_decay = group_baskets, basket_decay, group_decay
        self._neighbors, self._own_share, self._sales_weight = neighbors, own_share, sales_weight
        self._users = {user_id: number for number, user_id in enumerate(purchases.baskets)}
        self._vectors = sp.vstack([sp.csr_matrix(self._build_vector(user_id)) for user_id in self._users]).tocsr()  # (U, items)
        self._squares = np.asarray(self._vectors.multiply(self._vectors).sum(1)).ravel()  # (U,)

    def score(self, user_id: str, time_ms: int, items: int) -> Scores:
        """Scores (items,) of the rows of the item table. The neighbors are those of construction, the user is current."""
        own = self._build_vector(user_id)
        distances = self._squares - 2 * (self._vectors @ own)
        if user_id in self._users:
            distances[self._users[user_id]] = np.inf
        count = min(self._neighbors, len(distances) - 1)
        nearest = np.argpartition(distances, count)[:count]
        scores = self._sales_weight * self._purchases.weekly_sales(time_ms, items)
        neighbors = np.asarray(self._vectors[nearest].mean(0)).ravel()
        scores[: self._items] += self._own_share * own + (1 - self._own_share) * neighbors
        return scores

    def _build_vector(self, user_id: str) -> NDArray[np.float32]:
        """The user's decayed frequencies (items,)."""
        vector = np.zeros(self._items, np.float32)
        groups = self._split([rows for _, rows in self._purchases.of_user(user_id)])
        for from_last, group in enumerate(reversed(groups)):
            for from_end, rows in enumerate(reversed(group)):
                weight = self._group_decay**from_last * self._basket_decay**from_end
                vector[rows[rows < self._items]] += weight / len(group) / len(groups)
        return vector

    def _split(self, baskets: list[Rows]) -> list[list[Rows]]:
        """Groups of consecutive baskets; only the first may be smaller."""
        size = self._group_baskets
        starts = range(len(baskets) % size or size, len(baskets) + 1, size)
        return [baskets[max(0, start - size) : start] for start in starts] if baskets else []
