"""Metrics list by list: hit rate, NDCG and GAUC over all products on sale, with intervals over baskets."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation import metrics
from evaluation.intervals import Estimate, estimate_ratio

CUTOFF = 10


@dataclass(frozen=True)
class LabeledCandidates:
    """One list as masks (N,) over all items, and each item's popularity bucket (N,)."""

    targets: NDArray[np.bool_]
    negatives: NDArray[np.bool_]
    buckets: NDArray[np.int64]

    @cached_property
    def matched(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Indices of the targets and of the negatives of each bucket that has both."""
        found = []
        for bucket in np.unique(self.buckets[self.targets]):
            same = self.buckets == bucket
            negatives = np.flatnonzero(self.negatives & same)
            if len(negatives):
                found.append((np.flatnonzero(self.targets & same), negatives))
        return found


class ListResult(NamedTuple):
    """One list: sums over its targets, and its NDCG."""

    day: int
    targets: int
    hits: float
    auc: float
    ndcg: float
    matched_targets: int  # targets with a negative of their own popularity bucket
    matched_auc: float


METRICS = {  # numerator and denominator, as columns of `ListResult`; NDCG is a mean over lists, the others over targets
    "hr_10": ("hits", "targets"),
    "ndcg_10": ("ndcg", ""),
    "gauc": ("auc", "targets"),
    "gauc_matched": ("matched_auc", "matched_targets"),
}


@dataclass
class MetricTally:
    """HR@10, NDCG@10, GAUC and matched GAUC of one model on the lists of one slice.

    Matched GAUC ranks each target only among negatives of its own popularity bucket (powers of two), which removes what
    popularity alone explains.
    """

    lists: list[ListResult] = field(default_factory=list)

    def add(self, day: int, scores: NDArray[np.float32], candidates: LabeledCandidates) -> None:
        """Add one list: `scores` (N,) of all items."""
        negatives = scores[candidates.negatives]
        ranks = metrics.rank(scores[candidates.targets], negatives)
        matched = [
            metrics.target_auc(metrics.rank(scores[targets], scores[others]), len(others))
            for targets, others in candidates.matched
        ]
        self.lists.append(
            ListResult(
                day,
                len(ranks),
                float(metrics.hit(ranks, CUTOFF).sum()),
                float(metrics.target_auc(ranks, len(negatives)).sum()),
                metrics.list_ndcg(ranks, CUTOFF),
                sum(map(len, matched)),
                float(sum(part.sum() for part in matched)),
            )
        )

    @property
    def targets(self) -> int:
        """Targets of all lists."""
        return sum(result.targets for result in self.lists)

    def measure(self, metric: str, baseline: "MetricTally | None" = None) -> Estimate | None:
        """A metric, or its gain over a baseline on the same lists, with a 95% interval; None without targets."""
        numerator, denominator = self._columns(metric)
        if not denominator.sum():
            return None
        if baseline:
            numerator = numerator - baseline._columns(metric)[0]
        return estimate_ratio(numerator, denominator)

    def hits_by_day(self) -> dict[int, tuple[float, int]]:
        """Hits and targets of each day."""
        by_day: dict[int, tuple[float, int]] = {}
        for result in self.lists:
            hits, targets = by_day.get(result.day, (0.0, 0))
            by_day[result.day] = hits + result.hits, targets + result.targets
        return by_day

    def _columns(self, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Numerators and denominators (lists,) of a metric."""
        numerator, denominator = METRICS[metric]
        counts = [getattr(result, denominator) if denominator else 1 for result in self.lists]
        return np.array([getattr(result, numerator) for result in self.lists], float), np.array(counts, float)
