"""Running metrics of the demo: hit rate and GAUC over lists of all products on sale, added list by list."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evaluation import metrics


@dataclass(frozen=True)
class LabeledCandidates:
    """One list as masks (N,) over all items, and each item's popularity bucket (N,)."""

    targets: NDArray[np.bool_]
    negatives: NDArray[np.bool_]
    buckets: NDArray[np.int64]

    def match(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Indices of the targets and of the negatives of each bucket that has both."""
        for bucket in np.unique(self.buckets[self.targets]):
            same = self.buckets == bucket
            negatives = np.flatnonzero(self.negatives & same)
            if len(negatives):
                yield np.flatnonzero(self.targets & same), negatives


@dataclass
class MetricTally:
    """Hit rate, GAUC and matched GAUC, each the mean over the targets of all lists.

    Matched GAUC ranks each target only among negatives of its own popularity bucket (powers of two), which removes what
    popularity alone explains.
    """

    cutoff: int = 10
    targets: int = 0
    by_day: dict[int, list[float]] = field(default_factory=dict)  # hits and targets
    _hits: float = 0.0
    _auc: float = 0.0
    _matched_targets: int = 0
    _matched_auc: float = 0.0

    def add(self, day: int, scores: NDArray[np.float32], candidates: LabeledCandidates) -> None:
        """Add one list: `scores` (N,) of all items."""
        negatives = scores[candidates.negatives]
        ranks = metrics.rank(scores[candidates.targets], negatives)
        hits = float(metrics.hit(ranks, self.cutoff).sum())
        self.targets += len(ranks)
        self._hits += hits
        self._auc += float(metrics.target_auc(ranks, len(negatives)).sum())
        day_counts = self.by_day.setdefault(day, [0.0, 0.0])
        day_counts[0] += hits
        day_counts[1] += len(ranks)
        for targets, matched in candidates.match():
            ranks = metrics.rank(scores[targets], scores[matched])
            self._matched_targets += len(ranks)
            self._matched_auc += float(metrics.target_auc(ranks, len(matched)).sum())

    @property
    def hit_rate(self) -> float | None:
        """Share of the targets within the cutoff; None without targets."""
        return self._hits / self.targets if self.targets else None

    @property
    def gauc(self) -> float | None:
        """GAUC grouped by list; None without targets."""
        return self._auc / self.targets if self.targets else None

    @property
    def gauc_matched(self) -> float | None:
        """Matched GAUC; None if no target had a matched negative."""
        return self._matched_auc / self._matched_targets if self._matched_targets else None
