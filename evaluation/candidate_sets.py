"""Candidate sets: the targets of each ranking instance and the negatives that they are ranked among.

Every model in a comparison ranks the same candidate sets. `evaluation.negative_sampling` draws them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation import metrics

TARGETS_LIMIT = 8  # targets per set; if there are more, a random choice is kept
UNIFORM = "uniform"
POPULARITY_SAMPLED = "popularity_sampled"
POPULARITY_MATCHED = "popularity_matched"
REPEATS = "repeats"
SHOWN = "shown"
CHUNK = 256


@dataclass(frozen=True)
class CandidateSets:
    """n candidate sets of C columns: TARGETS_LIMIT targets, then negatives to train on, then negatives for evaluation only.

    Attributes:
        rows: item table rows (n, C).
        mask: which columns hold a candidate (n, C); the rest is padding.
        negatives: by kind, the columns (n, TARGETS_LIMIT, M) that each target is ranked among, -1 for padding. The first
            kind is the one that probabilities and pooled AUC are measured on.
        training_negatives: how many negatives a ranker may be trained on.
    """

    rows: Tensor
    mask: Tensor
    negatives: dict[str, Tensor]
    training_negatives: int

    def __getitem__(self, indices: Tensor) -> "CandidateSets":
        negatives = {kind: columns[indices] for kind, columns in self.negatives.items()}
        return CandidateSets(self.rows[indices], self.mask[indices], negatives, self.training_negatives)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> Tensor:
        """Item table rows of the targets (n, TARGETS_LIMIT), 0 for padding."""
        return self.rows[:, :TARGETS_LIMIT] * self.mask[:, :TARGETS_LIMIT]

    @property
    def labels(self) -> Tensor:
        """Which columns (n, C) are target columns."""
        labels = torch.zeros_like(self.mask)
        labels[:, :TARGETS_LIMIT] = True
        return labels

    @property
    def calibration_mask(self) -> Tensor:
        """Candidates (n, C) that probabilities and pooled AUC are measured on: targets and negatives of the first kind."""
        columns = next(iter(self.negatives.values()))[:, 0]  # (n, M)
        width = self.mask.shape[1]
        chosen = self.mask.new_zeros(len(self), width + 1)  # the last column collects the padding
        chosen[:, :TARGETS_LIMIT] = True
        chosen.scatter_(1, torch.where(columns >= 0, columns, width), True)
        return chosen[:, :width] & self.mask

    def rank_targets(self, scores: Tensor, kind: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rank of each target (n, TARGETS_LIMIT) among its negatives of a kind, and the number of those negatives.

        The rank is NaN without a target or without negatives. `scores` are (n, C).
        """
        ranks, counts = [], []
        for indices in torch.split(torch.arange(len(self)), CHUNK):
            columns = self.negatives[kind][indices]  # (b, T, M)
            exists = (columns >= 0).numpy()
            negatives = scores[indices].gather(1, columns.clamp(min=0).flatten(1)).view(columns.shape)
            found = metrics.rank(scores[indices, :TARGETS_LIMIT].numpy(), negatives.numpy(), exists)
            count = exists.sum(-1)
            ranked = self.mask[indices, :TARGETS_LIMIT].numpy() & (count > 0)
            ranks.append(np.where(ranked, found, np.nan))
            counts.append(count)
        return np.concatenate(ranks).astype(np.float32), np.concatenate(counts).astype(np.float32)
