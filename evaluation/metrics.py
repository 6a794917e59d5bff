"""Ranking metrics over one list: where the items taken stand among those that were not."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


def ranks(positives: NDArray[np.float32], negatives: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rank (P,) of each positive among the negatives alone, from 1; a tie counts half."""
    ordered = np.sort(negatives)
    above = len(ordered) - np.searchsorted(ordered, positives, side="right")
    level = len(ordered) - above - np.searchsorted(ordered, positives, side="left")
    return 1 + above + 0.5 * level


@dataclass
class Tally:
    """Hit rate and GAUC, gathered list by list.

    GAUC is the mean over candidate_sets of the AUC within a list, weighted by its positives: the share of (positive, negative)
    pairs of one list in the right order. Matched GAUC sets each positive only against negatives of its own bucket of
    popularity (powers of two), which takes away what popularity alone explains.
    """

    cutoff: int = 10
    targets: int = 0
    matched: int = 0
    by_day: dict[int, list[float]] = field(default_factory=dict)
    _hits: float = 0.0
    _auc: float = 0.0
    _matched_auc: float = 0.0

    def add(self, day: int, scores: NDArray[np.float32], candidate_sets: "CandidateList") -> None:
        """Take in one list: `scores` (N,) of all items."""
        places = ranks(scores[candidate_sets.positives], scores[candidate_sets.negatives])
        hits = float((places <= self.cutoff).sum())
        self.targets += len(places)
        self._hits += hits
        self._auc += float((1 - (places - 1) / candidate_sets.negatives.sum()).sum())
        of_day = self.by_day.setdefault(day, [0.0, 0.0])
        of_day[0] += hits
        of_day[1] += len(places)
        for positives, negatives in candidate_sets.matched():
            places = ranks(scores[positives], scores[negatives])
            self.matched += len(places)
            self._matched_auc += float((1 - (places - 1) / len(negatives)).sum())

    @property
    def hit_rate(self) -> float | None:
        """Share of the targets within the cutoff; None without targets."""
        return self._hits / self.targets if self.targets else None

    @property
    def gauc(self) -> float | None:
        """See the class; None without targets."""
        return self._auc / self.targets if self.targets else None

    @property
    def gauc_matched(self) -> float | None:
        """See the class; None without targets."""
        return self._matched_auc / self.matched if self.matched else None


@dataclass(frozen=True)
class CandidateList:
    """One list: what was taken and what was not, as masks (N,) over all items, and each item's bucket of popularity (N,)."""

    positives: NDArray[np.bool_]
    negatives: NDArray[np.bool_]
    buckets: NDArray[np.int64]

    def matched(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Positives and negatives of each bucket that has both."""
        for bucket in np.unique(self.buckets[self.positives]):
            same = self.buckets == bucket
            negatives = np.flatnonzero(self.negatives & same)
            if len(negatives):
                yield np.flatnonzero(self.positives & same), negatives
