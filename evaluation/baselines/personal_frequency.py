"""What the user bought before, then what sells this week: personal top frequency (Hu et al. 2020) with a back-off."""

from evaluation.baselines.purchases import Purchases, Scores


class PersonalFrequency:
    """Scores an item by the user's decayed purchases of it, plus a share of its weekly sales.

    score = Σ_baskets 2^(−age / half-life) + weight · sales / best seller's sales

    With 0 baskets it is weekly popularity.
    """

    def __init__(self, purchases: Purchases, half_life_days: float = 180.0, sales_weight: float = 1.0) -> None:
        self._purchases = purchases
        self._half_life_days = half_life_days
        self._sales_weight = sales_weight

    def score(self, user_id: str, time_ms: int, items: int) -> Scores:
        """Scores (items,) of the rows of the item table."""
        frequency = self._purchases.personal_frequency(user_id, time_ms, items, self._half_life_days)
        scores: Scores = frequency + self._sales_weight * self._purchases.weekly_sales(time_ms, items)
        return scores
