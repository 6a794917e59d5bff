"""Means with 95% intervals over users and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def estimate_mean(per_seed: Sequence[NDArray[np.float32]], users: NDArray[np.int64]) -> Estimate:
    """Mean over seeds and instances of values (n, …), ignoring NaN.

    The interval is a percentile bootstrap that resamples seeds and users together; `users` (n,) numbers each instance's user.
    """
    sums = np.stack([_sum_by_user(np.nan_to_num(values), users) for values in per_seed])  # (S, U)
    counts = np.stack([_sum_by_user(np.isfinite(values).astype(np.float32), users) for values in per_seed])
    generator = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        seeds = generator.integers(0, len(per_seed), len(per_seed))
        weights = np.bincount(generator.integers(0, sums.shape[1], sums.shape[1]), minlength=sums.shape[1])
        means.append((sums[seeds] @ weights).sum() / max(1.0, (counts[seeds] @ weights).sum()))
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(sums.sum() / max(1.0, counts.sum())), float(low), float(high))


def estimate_ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> Estimate:
    """Σ numerators / Σ denominators over lists (n,). The interval is a percentile bootstrap that resamples the lists."""
    weights = _resample(len(numerators))
    totals = weights @ denominators
    low, high = np.quantile((weights @ numerators)[totals > 0] / totals[totals > 0], [0.025, 0.975])
    return Estimate(float(numerators.sum() / denominators.sum()), float(low), float(high))


@lru_cache(maxsize=8)
def _resample(lists: int) -> NDArray[np.int64]:
    """How often each list is drawn in each resample (RESAMPLES, lists); the same for all metrics of the same lists."""
    return np.random.default_rng(0).multinomial(lists, np.full(lists, 1 / lists), size=RESAMPLES)


def _sum_by_user(values: NDArray[np.float32], users: NDArray[np.int64]) -> NDArray[np.float64]:
    summed: NDArray[np.float64] = np.bincount(users, weights=values.reshape(len(values), -1).sum(-1)).astype(np.float64)
    return summed
