"""Links between items: sparse matrices (N, N) whose entry i, j says how much an item i of a history speaks for item j.

Each kind is counted on training sequences or derived from the catalog. Row and column 0, the unknown item, stay empty.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from evaluation.leave_one_out import Rows, UserSequences

REACH = 40  # items later than this after another do not count as its followers
SHRINKAGE = 40.0  # sequences added to each item's count, so that a pair seen once does not look certain
SOURCE_SHARE = 0.7  # how much of the normalization is by the count of the item of the history
NEIGHBORS = 100  # similar items kept of each
SHARPNESS = 6.0  # power that cosines are raised to
BLOCK = 1000  # items whose cosines to all are in memory at a time
LABEL_SHRINKAGE = 5.0  # added to the count of a label's items


@dataclass(frozen=True)
class Links:
    """A matrix of links, and how fast a history fades: each item weighs `decay` times the one after it."""

    weights: sp.csr_matrix
    decay: float

    def score(self, histories: UserSequences) -> sp.csr_matrix:
        """Scores (B, N): the sum of the links from the items of each history."""
        lengths = [len(rows) for rows in histories.rows]
        users = np.repeat(np.arange(len(lengths)), lengths)
        from_end = np.concatenate([np.arange(length)[::-1] for length in lengths])
        faded = ((self.decay**from_end).astype(np.float32), (users, np.concatenate(histories.rows)))
        return (sp.csr_matrix(faded, shape=(len(lengths), histories.items)) @ self.weights).tocsr()


def count_items(train: UserSequences) -> NDArray[np.float32]:
    """In how many places of the sequences each item occurs (N,)."""
    return np.bincount(np.concatenate(train.rows), minlength=train.items).astype(np.float32)


def link_followers(train: UserSequences, reach: int = REACH) -> sp.csr_matrix:
    """Sequential rules (Ludewig and Jannach 2018): j came up to `reach` places after i, each time weighing places^−½.

    Divided by (count of i + SHRINKAGE)^SOURCE_SHARE · (count of j + SHRINKAGE)^(1 − SOURCE_SHARE).
    """
    return _normalize(_count_pairs(train, reach, 0.5), count_items(train))


def link_companions(train: UserSequences) -> sp.csr_matrix:
    """Item-kNN (Sarwar et al. 2001): i and j are in the same sequence, in either order; normalized as followers are."""
    pairs = _count_pairs(train, max(map(len, train.rows)), 0.0)
    return _normalize(pairs + pairs.T, count_items(train))


def link_similar(vectors: NDArray[np.float32]) -> sp.csr_matrix:
    """The NEIGHBORS items j whose texts are nearest to i's, cosine^SHARPNESS; unit vectors (N − 1, D) of rows from 1."""
    count = min(NEIGHBORS, len(vectors) - 1)
    blocks = []
    for start in range(0, len(vectors), BLOCK):
        cosines = vectors[start : start + BLOCK] @ vectors.T
        rows = np.arange(start, start + len(cosines))
        cosines[np.arange(len(cosines)), rows] = -1.0
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        values = np.maximum(np.take_along_axis(cosines, nearest, axis=1), 0.0) ** SHARPNESS
        blocks.append((values.ravel(), np.repeat(rows, count) + 1, nearest.ravel() + 1))
    values, sources, targets = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return sp.csr_matrix((values, (sources, targets)), shape=(len(vectors) + 1,) * 2)


def link_same_label(labels: Rows, counts: NDArray[np.float32]) -> sp.csr_matrix:
    """P(j | i's label) by the items' counts (N,), and 0 for i = j; `labels` (N,) number the labels from 1, 0 is none."""
    has = np.flatnonzero(labels)
    members = sp.csr_matrix((np.ones(len(has), np.float32), (has, labels[has])), shape=(len(labels), labels.max() + 1))
    totals = members.T @ counts + np.float32(LABEL_SHRINKAGE)
    links = (members @ sp.diags(1 / totals) @ members.T @ sp.diags(counts)).tocsr()
    return (links - sp.diags(links.diagonal())).tocsr()


def _count_pairs(train: UserSequences, reach: int, exponent: float) -> sp.csr_matrix:
    """How often j came up to `reach` places after i, each time weighing places^−`exponent`."""
    sources, targets, weights = [], [], []
    for rows in train.rows:
        for places in range(1, min(len(rows), reach + 1)):
            sources.append(rows[:-places])
            targets.append(rows[places:])
            weights.append(np.full(len(rows) - places, places**-exponent, np.float32))
    pairs = (np.concatenate(weights), (np.concatenate(sources), np.concatenate(targets)))
    return sp.csr_matrix(pairs, shape=(train.items, train.items))


def _normalize(pairs: sp.csr_matrix, counts: NDArray[np.float32]) -> sp.csr_matrix:
    source = sp.diags((counts + SHRINKAGE) ** -SOURCE_SHARE)
    target = sp.diags((counts + SHRINKAGE) ** -(1 - SOURCE_SHARE))
    return (source @ pairs @ target).tocsr()
