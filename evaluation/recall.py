"""How many of the behaviors that were new to a user a source would have inferred."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.instances import RankingInstance

BEST = 50
CUTOFFS = (10, 50)
CHUNK = 64

Best = Callable[[Sequence[RankingInstance]], Tensor]  # instances to the rows (B, BEST) that a source would infer


def recalls(
    best: Best, instances: Sequence[RankingInstance], unseen: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Share of each instance's targets among the first 10 and 50 (n, 2), and the same of its `unseen` ones, NaN without any.

    `unseen` (N,) bool says which items were never trained on.
    """
    found, cold = np.full((2, len(instances), len(CUTOFFS)), np.nan, np.float32)
    for start in range(0, len(instances), CHUNK):
        part = instances[start : start + CHUNK]
        for at, (instance, rows) in enumerate(zip(part, best(part), strict=True), start=start):
            targets = torch.from_numpy(instance.targets)
            for column, cutoff in enumerate(CUTOFFS):
                hit = torch.isin(targets, rows[:cutoff]).float()
                found[at, column] = float(hit.mean())
                if unseen[targets].any():
                    cold[at, column] = float(hit[unseen[targets]].mean())
    return found, cold
