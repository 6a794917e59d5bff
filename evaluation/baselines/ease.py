"""EASE^R: a linear item-item model in closed form (Steck 2019)."""

import numpy as np

from evaluation.baselines.purchases import Purchases, Scores
from reaseq.ranker.item_statistics import fit_weights


class Ease:
    """Scores an item by the weights toward it from the items that the user bought, plus its frequency and its sales.

    score_j = Σ_i∈bought B_ij + weight · the user's decayed frequency of j + weight · sales / best seller's sales

    For B see `reaseq.ranker.item_statistics`. It is fitted once, on the purchases at construction; later items have no weights.
    """

    def __init__(
        self,
        purchases: Purchases,
        items: int,
        regularization: float = 500.0,
        half_life_days: float = 180.0,
        frequency_weight: float = 0.3,
        sales_weight: float = 0.3,
    ) -> None:
        self._purchases = purchases
        self._weights = fit_weights(purchases.users_items(items), regularization)
        self._half_life_days = half_life_days
        self._frequency_weight, self._sales_weight = frequency_weight, sales_weight

    def score(self, user_id: str, time_ms: int, items: int) -> Scores:
        """Scores (items,) of the rows of the item table."""
        frequency = self._purchases.personal_frequency(user_id, time_ms, items, self._half_life_days)
        bought = np.flatnonzero(frequency[: len(self._weights)])
        scores = self._frequency_weight * frequency + self._sales_weight * self._purchases.weekly_sales(time_ms, items)
        scores[: len(self._weights)] += self._weights[bought].sum(0)
        return scores
