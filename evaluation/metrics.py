"""Ranking metrics on numpy, one function each.

A list holds targets (the items that the user chose) and negatives. `rank` is the position of a target among its own
negatives; `hit`, `ndcg` and `target_auc` turn ranks into one value for each target, NaN where there is none. A reported
figure is the mean over targets, which `evaluation.intervals` computes with its interval.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

PROBABILITY_FLOOR = 1e-7


def rank(targets: Floats, negatives: Floats, mask: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Rank (…) of each target among its negatives, from 1:

    rank = 1 + #{negatives scored higher} + ½ · #{negatives scored equal}.

    A tie counts half a place, its expectation under random tie-breaking (McSherry and Najork 2008).

    Args:
        targets: scores (…) of the targets.
        negatives: scores (…, M), broadcast against the targets.
        mask: which negatives exist (…, M); all by default.
    """
    scores = targets[..., None]
    above, level = negatives > scores, negatives == scores
    if mask is not None:
        above, level = above & mask, level & mask
    ranks: NDArray[np.float64] = 1.0 + above.sum(-1) + 0.5 * level.sum(-1)
    return ranks


def target_auc(ranks: Floats, negatives: Floats | NDArray[np.integer[Any]] | int) -> NDArray[np.float32]:
    """AUC within a list (…): the share of a target's `negatives` that it outranks, ties counting half:

    AUC = 1 − (rank − 1) / negatives  (Hanley and McNeil 1982).

    The mean over the targets of all lists is GAUC (Zhu et al. 2017), grouped by list and weighted by targets.
    """
    return (1 - (ranks - 1) / np.maximum(negatives, 1)).astype(np.float32)


def hit(ranks: Floats, cutoff: int) -> NDArray[np.float32]:
    """1 if rank ≤ cutoff, else 0 (…). The mean over targets is the hit rate, HR@cutoff (Deshpande and Karypis 2004)."""
    return np.where(np.isnan(ranks), np.nan, ranks <= cutoff).astype(np.float32)


def ndcg(ranks: Floats, cutoff: int) -> NDArray[np.float32]:
    """NDCG@cutoff (…) of a list with one target, whose ideal DCG is 1 (Järvelin and Kekäläinen 2002):

    1 / log₂(1 + rank) if rank ≤ cutoff, else 0.
    """
    gains = np.where(ranks <= cutoff, 1 / np.log2(1 + np.maximum(ranks, 1)), 0)
    return np.where(np.isnan(ranks), np.nan, gains).astype(np.float32)


def list_ndcg(ranks: Floats, cutoff: int) -> float:
    """NDCG@cutoff of a list with several targets, from each one's rank (T,) among the negatives (Järvelin and Kekäläinen 2002):

    Σ_targets [place ≤ cutoff] / log₂(1 + place), over the same sum with all targets in front.

    A target's place in the list is its rank among the negatives plus the number of better targets.
    """
    places = np.sort(ranks) + np.arange(len(ranks))
    ideal = np.arange(1, min(cutoff, len(ranks)) + 1)
    return float((1 / np.log2(1 + places[places <= cutoff])).sum() / (1 / np.log2(1 + ideal)).sum())


def log_loss(probabilities: Floats, labels: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean binary cross-entropy (n,) over the masked candidates of each list (n, C):

    −mean(y · ln p + (1 − y) · ln(1 − p)).
    """
    p = np.clip(probabilities.astype(np.float64), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    losses = -np.where(labels, np.log(p), np.log1p(-p))
    means: NDArray[np.float32] = ((losses * mask).sum(-1) / mask.sum(-1)).astype(np.float32)
    return means


def pooled_auc(targets: Floats, negatives: Floats) -> float:
    """AUC over all lists at once, from scores (P,) and (M,): the share of (target, negative) pairs in the right order.

    AUC = U / (P · M) with the Mann–Whitney statistic U, in which a tie counts half (Hanley and McNeil 1982).
    """
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, targets, side="left") + np.searchsorted(ordered, targets, side="right")
    return float(below.mean() / 2 / len(ordered))
