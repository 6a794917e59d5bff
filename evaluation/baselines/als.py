"""ALS: matrix factorization of implicit feedback by alternating least squares (Hu, Koren and Volinsky 2008)."""

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from evaluation.baselines.purchases import Purchases, Scores


class Als:
    """Scores an item by the product of its factors with the user's, plus the user's frequency of it and its sales.

    Factors minimize Σ_ui c_ui · (p_ui − x_u · y_i)² + λ · (Σ_u ‖x_u‖² + Σ_i ‖y_i‖²), with p_ui = 1 if u bought i and else 0,
    and c_ui = `confidence` · (number of u's baskets with i), or 1 if there are none. Item factors are fitted once, on the
    purchases at construction; a user's are solved for anew from the current purchases.

    score = x_u · y_i + weight · the user's decayed frequency of i + weight · sales / best seller's sales
    """

    def __init__(
        self,
        purchases: Purchases,
        items: int,
        factors: int = 64,
        confidence: float = 1.0,
        regularization: float = 0.05,
        iterations: int = 12,
        half_life_days: float = 180.0,
        frequency_weight: float = 0.3,
        sales_weight: float = 0.03,
        seed: int = 0,
    ) -> None:
        self._purchases, self._items = purchases, items
        self._half_life_days = half_life_days
        self._frequency_weight, self._sales_weight = frequency_weight, sales_weight
        with threadpool_limits(1, "blas"):  # implicit warns of more, when the model is made
            self._model = AlternatingLeastSquares(
                factors=factors,
                alpha=confidence,
                regularization=regularization,
                iterations=iterations,
                num_threads=1,
                random_state=seed,
            )
        counts = sp.vstack([self._count(user_id) for user_id in purchases.baskets]).tocsr()  # (U, items)
        self._model.fit(counts, show_progress=False)

    def score(self, user_id: str, time_ms: int, items: int) -> Scores:
        """Scores (items,) of the rows of the item table; items that came after the fit have no factors."""
        frequency = self._purchases.personal_frequency(user_id, time_ms, items, self._half_life_days)
        scores = self._frequency_weight * frequency + self._sales_weight * self._purchases.weekly_sales(time_ms, items)
        counts = self._count(user_id)
        if counts.nnz:
            user = np.asarray(self._model.recalculate_user(0, counts)).ravel()
            scores[: self._items] += self._model.item_factors @ user
        return scores

    def _count(self, user_id: str) -> sp.csr_matrix:
        """In how many of the user's baskets each item is (1, items)."""
        baskets = [rows[rows < self._items] for _, rows in self._purchases.of_user(user_id)]
        rows = np.concatenate([*baskets, np.zeros(0, np.int64)])
        return sp.csr_matrix(np.bincount(rows, minlength=self._items).astype(np.float32))
