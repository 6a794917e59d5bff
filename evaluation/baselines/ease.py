"""EASE^R: a linear item-item model in closed form (Steck 2019)."""

import numpy as np
from numpy.typing import NDArray

from evaluation.baselines.purchases import Purchases, Scores


class Ease:
    """Item weights B that minimize ‖X − XB‖² + λ‖B‖² with a zero diagonal, for the binary matrix X of users and items:

    P = (XᵀX + λI)⁻¹,  B_ij = −P_ij / P_jj,  B_jj = 0.

    An item's score is Σ_i B_ij over the items i that the user bought, plus weighted shares of the user's own frequency of it
    and of its weekly sales. The weights are fitted once, on the purchases at construction; items that came later have none.
    """

    def __init__(
        self,
        purchases: Purchases,
        items: int,
        regularization: float = 500.0,
        half_life_days: float = 180.0,
        frequency_weight: float = 0.3,
        sales_weight: float = 0.1,
    ) -> None:
        self._purchases = purchases
        self._weights = fit(purchases, items, regularization)
        self._half_life_days = half_life_days
        self._frequency_weight, self._sales_weight = frequency_weight, sales_weight

    def score(self, user_id: str, time_ms: int, items: int) -> Scores:
        """Scores (items,) of the rows of the item table."""
        frequency = self._purchases.personal_frequency(user_id, time_ms, items, self._half_life_days)
        bought = np.flatnonzero(frequency[: len(self._weights)])
        scores = self._frequency_weight * frequency + self._sales_weight * self._purchases.weekly_sales(time_ms, items)
        scores[: len(self._weights)] += self._weights[bought].sum(0)
        return scores


def fit(purchases: Purchases, items: int, regularization: float) -> NDArray[np.float32]:
    """The item weights B (items, items)."""
    bought = purchases.users_items(items)
    gram = (bought.T @ bought).toarray().astype(np.float64)
    gram[np.diag_indices(items)] += regularization
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    weights[np.diag_indices(items)] = 0.0
    return np.asarray(weights, np.float32)
