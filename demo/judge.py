"""The prequential judge: before each basket, every model ranks what is on sale; then the basket is learned from."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.online_retail import Order
from evaluation.metrics import CandidateList, Tally
from reaseq.days import DAY_MS

RANKER, ID_ONLY, RECENT, POPULAR = "ranker", "ranker, ids only", "recent popularity", "popularity"
MODELS = (RANKER, ID_ONLY, RECENT, POPULAR)
ALL, NEW, ALL_UNSEEN, NEW_UNSEEN = "all", "new_to_customer", "all_unseen_items", "new_to_customer_unseen_items"
SLICES = (ALL, NEW, ALL_UNSEEN, NEW_UNSEEN)


@dataclass(frozen=True)
class Shelf:
    """What stood to choose from when a basket was filled, over the N rows of the item table."""

    ids: Sequence[str]  # (N,) or more
    on_sale: NDArray[np.bool_]  # (N,) and listed before the basket
    sold: NDArray[np.float32]  # (N,) lately, faded with a half-life of 30 days


class Judge:
    """Tallies by model and slice; keeps what each customer has bought, without any limit on length."""

    def __init__(self, trained: set[str], earlier: Sequence[Order]) -> None:
        self.tallies = {model: {part: Tally() for part in SLICES} for model in MODELS}
        self.baskets = 0
        self._trained = trained
        self._bought: dict[str, set[str]] = defaultdict(set)
        self._sold: Counter[str] = Counter()
        for order in earlier:
            self.learn(order)

    def judge(self, order: Order, shelf: Shelf, scores: dict[str, NDArray[np.float32]]) -> None:
        """Take in each model's scores (N,) of every row."""
        self.baskets += 1
        for part, candidates in self._lists(order, shelf):
            for model, of_model in scores.items():
                self.tallies[model][part].add(order.time_ms // DAY_MS, of_model, candidates)

    def learn(self, order: Order) -> None:
        """The basket has been taken."""
        self._bought[order.user_id].update(order.item_ids)
        self._sold.update(order.item_ids)

    def sold(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """In how many baskets each item was so far (len(ids),)."""
        return np.array([self._sold[item_id] for item_id in ids], np.float32)

    def table(self) -> Iterator[tuple[str, str, Tally]]:
        """Each (model, slice, tally)."""
        for model, parts in self.tallies.items():
            for part, tally in parts.items():
                yield model, part, tally

    def _lists(self, order: Order, shelf: Shelf) -> Iterator[tuple[str, CandidateList]]:
        """The list of each slice that has a target: what is judged as new to the customer competes with such only."""
        ids = shelf.ids[: len(shelf.on_sale)]
        taken = _mask(ids, set(order.item_ids))
        not_bought = ~_mask(ids, self._bought[order.user_id])
        unseen = ~_mask(ids, self._trained)
        buckets = np.log2(shelf.sold + 1).astype(np.int64)
        for part in SLICES:
            open_to = shelf.on_sale & not_bought if part in (NEW, NEW_UNSEEN) else shelf.on_sale
            targets = taken & open_to & unseen if part in (ALL_UNSEEN, NEW_UNSEEN) else taken & open_to
            others = open_to & ~taken
            if targets.any() and others.any():
                yield part, CandidateList(targets, others, buckets)


def _mask(ids: Sequence[str], members: set[str]) -> NDArray[np.bool_]:
    return np.fromiter((item_id in members for item_id in ids), dtype=bool, count=len(ids))
