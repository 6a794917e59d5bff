"""UP-CF: recency-aware collaborative filtering over user-wise popularity (Faggioli, Polato and Aiolli 2020)."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from evaluation.baselines.purchases import Purchases, Scores


class UpCf:
    """Each user is a vector of how often each item was in the latest baskets; the score mixes the vectors of similar users.

    With p_u(i) the share of the latest `recent_baskets` baskets of u that have item i (user-wise popularity):

    score(i) = Σ_v s(u, v)^locality · p_v(i) / Σ_v s(u, v)^locality + weight · sales / best seller's sales,
    s(u, v) = Σ_i p_u(i) · p_v(i) / (Σ_i p_u(i)²)^asymmetry / (Σ_i p_v(i)²)^(1 − asymmetry)

    The sum is over the users at construction; the user herself is one of them, with her current vector.
    """

    def __init__(
        self,
        purchases: Purchases,
        items: int,
        recent_baskets: int = 25,
        locality: float = 30.0,
        asymmetry: float = 0.25,
        sales_weight: float = 0.1,
    ) -> None:
        self._purchases, self._items, self._recent_baskets = purchases, items, recent_baskets
        self._locality, self._asymmetry, self._sales_weight = locality, asymmetry, sales_weight
        self._users = {user_id: number for number, user_id in enumerate(purchases.baskets)}
        self._vectors = sp.vstack([sp.csr_matrix(self._build_vector(user_id)) for user_id in self._users]).tocsr()  # (U, items)
        self._squares = np.asarray(self._vectors.multiply(self._vectors).sum(1)).ravel()  # (U,)

    def score(self, user_id: str, time_ms: int, items: int) -> Scores:
        """Scores (items,) of the rows of the item table."""
        scores = self._sales_weight * self._purchases.weekly_sales(time_ms, items)
        own = self._build_vector(user_id)
        if not own.any():
            return scores
        square = float(own @ own)
        norms = square**self._asymmetry * np.maximum(self._squares, 1e-9) ** (1 - self._asymmetry)
        weights = (self._vectors @ own / norms) ** self._locality  # (U,)
        if user_id in self._users:
            weights[self._users[user_id]] = 0.0
        scores[: self._items] += (weights @ self._vectors + own) / (weights.sum() + 1.0)  # her similarity to herself is 1
        return scores

    def _build_vector(self, user_id: str) -> NDArray[np.float32]:
        """The user-wise popularity (items,)."""
        vector = np.zeros(self._items, np.float32)
        recent = self._purchases.of_user(user_id)[-self._recent_baskets :]
        for _, rows in recent:
            vector[rows[rows < self._items]] += 1 / len(recent)
        return vector
