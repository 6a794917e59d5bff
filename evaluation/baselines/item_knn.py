"""Item-kNN, the control for inferred behaviors: what goes with the history by co-behavior, and what is like it."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.behavior.examples import Basket
from reaseq.behavior.sequence import Sequences
from reaseq.representation.item_table import Snapshot

SHRINK = 5.0  # behaviors that an item is given for nothing, so that a pair seen once is not certain


class ItemKnn:
    """Similarity of items by who took both, counted over baskets before a cut, so never over what is to be told."""

    def __init__(self, baskets: Sequence[Basket], table: Snapshot, until_ms: int) -> None:
        users: dict[str, int] = defaultdict(lambda: len(users))
        pairs = {
            (users[basket.user_id], row)
            for basket in baskets
            if basket.time_ms < until_ms
            for row in table.rows(basket.item_ids).tolist()
        }
        user, row = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
        taken = sp.csr_matrix((np.ones(len(row), np.float32), (user, row)), shape=(len(users) or 1, len(table)))
        norms = sp.diags(1 / np.sqrt(np.asarray(taken.sum(0)).ravel() + SHRINK))
        similar = norms @ (taken.T @ taken) @ norms  # (N, N) users who took both
        self._similar = (similar - sp.diags(similar.diagonal())).tocsr()  # an item says nothing about itself
        self._vectors = table.vectors

    def by_behavior(self, history: Sequences) -> NDArray[np.float32]:
        """Scores (B, N): similarity to the behaviors of each history, the recent ones counting more."""
        weights = _recency(history).numpy()  # (B, H)
        batch, length = weights.shape
        users = np.repeat(np.arange(batch), length)
        of = sp.csr_matrix((weights.ravel(), (users, history.rows.numpy().ravel())), shape=(batch, len(self._vectors)))
        scores: NDArray[np.float32] = (of @ self._similar).toarray().astype(np.float32)
        return scores

    def by_content(self, history: Sequences) -> NDArray[np.float32]:
        """Scores (B, N): cosine to the recency-weighted mean of each history's vectors."""
        weights = _recency(history)  # (B, H)
        mean = (weights.unsqueeze(-1) * self._vectors[history.rows]).sum(1)  # (B, D)
        mean = torch.nn.functional.normalize(mean, dim=-1)
        scores: NDArray[np.float32] = (mean @ self._vectors.T).numpy()
        return scores


def _recency(history: Sequences) -> Tensor:
    """Weights (B, H) of behaviors: 1 over one more than the bucket of their age."""
    return (history.rows > 0) / (1.0 + history.gaps)
