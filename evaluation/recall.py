"""Recall of new behaviors: the share of a user's new items that a retriever finds."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.instances import RankingInstance

TOP_K = 50
CUTOFFS = (10, 50)
CHUNK = 64

Retriever = Callable[[Sequence[RankingInstance]], Tensor]  # rows (B, TOP_K) for each instance, best first


def compute_recall(
    retrieve: Retriever, instances: Sequence[RankingInstance], cold_items: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Recall at 10 and 50 of each instance's targets (n, 2), and of its cold targets (n, 2), NaN where it has none.

    `cold_items` (N,) marks the items that were never trained on.
    """
    recall, cold_recall = np.full((2, len(instances), len(CUTOFFS)), np.nan, np.float32)
    for start in range(0, len(instances), CHUNK):
        chunk = instances[start : start + CHUNK]
        for index, (instance, rows) in enumerate(zip(chunk, retrieve(chunk), strict=True), start=start):
            targets = torch.from_numpy(instance.targets)
            cold = cold_items[targets]
            for column, cutoff in enumerate(CUTOFFS):
                hits = torch.isin(targets, rows[:cutoff]).float()
                recall[index, column] = float(hits.mean())
                if cold.any():
                    cold_recall[index, column] = float(hits[cold].mean())
    return recall, cold_recall
