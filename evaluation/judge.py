"""Prequential evaluation: every model ranks what is on sale before each basket, which then becomes part of what is known."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.tally import LabeledCandidates, MetricTally
from reaseq.days import DAY_MS

ALL, NEW, REPEATS = "all", "new_to_customer", "repeats"
ALL_UNSEEN, NEW_UNSEEN = "all_unseen_items", "new_to_customer_unseen_items"
SLICES = (ALL, NEW, REPEATS, ALL_UNSEEN, NEW_UNSEEN)


class Purchase(Protocol):
    """What a customer bought at one time."""

    @property
    def user_id(self) -> str: ...
    @property
    def time_ms(self) -> int: ...
    @property
    def item_ids(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Assortment:
    """The products that a customer could choose from, over the N rows of the item table."""

    ids: Sequence[str]  # (N,) or more
    on_sale: NDArray[np.bool_]  # (N,) and listed before the basket
    sold: NDArray[np.float32]  # (N,) recent sales, decayed with a half-life of 30 days


class Judge:
    """Tallies by model and slice. It remembers everything that each customer has bought."""

    def __init__(self, models: Iterable[str], trained: set[str], earlier: Iterable[Purchase]) -> None:
        self.tallies = {model: {name: MetricTally() for name in SLICES} for model in models}
        self.baskets = 0
        self._trained = trained
        self._bought: dict[str, set[str]] = defaultdict(set)
        self._sold: Counter[str] = Counter()
        for purchase in earlier:
            self.learn(purchase)

    def judge(self, purchase: Purchase, assortment: Assortment, scores: dict[str, NDArray[np.float32]]) -> None:
        """Add each model's scores (N,) of every row."""
        self.baskets += 1
        for name, candidates in self._slice(purchase, assortment):
            for model, model_scores in scores.items():
                self.tallies[model][name].add(purchase.time_ms // DAY_MS, model_scores, candidates)

    def learn(self, purchase: Purchase) -> None:
        """Record that the basket was bought."""
        self._bought[purchase.user_id].update(purchase.item_ids)
        self._sold.update(purchase.item_ids)

    def count_sales(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Number of baskets so far with each item (len(ids),)."""
        return np.array([self._sold[item_id] for item_id in ids], np.float32)

    def best(self, models: Iterable[str], name: str, metric: str) -> str:
        """The one of the models with the best metric on a slice."""
        return max(models, key=lambda model: ((estimate := self.tallies[model][name].measure(metric)) and estimate.mean) or 0.0)

    def table(self) -> Iterator[tuple[str, str, MetricTally]]:
        """Each (model, slice, tally)."""
        for model, tallies in self.tallies.items():
            for name, tally in tallies.items():
                yield model, name, tally

    def _slice(self, purchase: Purchase, assortment: Assortment) -> Iterator[tuple[str, LabeledCandidates]]:
        """The list of each slice that has a target. New targets compete only with products that are new to the customer too."""
        ids = assortment.ids[: len(assortment.on_sale)]
        in_basket = _build_mask(ids, set(purchase.item_ids))
        new = ~_build_mask(ids, self._bought[purchase.user_id])
        unseen = ~_build_mask(ids, self._trained)
        buckets = np.log2(assortment.sold + 1).astype(np.int64)
        every = np.ones_like(new)
        sliced = {ALL: every, NEW: new, REPEATS: ~new, ALL_UNSEEN: unseen, NEW_UNSEEN: unseen}
        for name, in_slice in sliced.items():
            candidates = assortment.on_sale & new if name in (NEW, NEW_UNSEEN) else assortment.on_sale
            targets = in_basket & candidates & in_slice
            negatives = candidates & ~in_basket
            if targets.any() and negatives.any():
                yield name, LabeledCandidates(targets, negatives, buckets)


def _build_mask(ids: Sequence[str], members: set[str]) -> NDArray[np.bool_]:
    return np.fromiter((item_id in members for item_id in ids), dtype=bool, count=len(ids))
