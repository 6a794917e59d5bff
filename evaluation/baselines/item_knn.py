"""Item-kNN, a baseline for inferred behaviors: the items most similar to a history, by co-behavior or by content."""

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

SHRINKAGE = 5.0  # users added to each item's count, so that a pair seen once does not look certain


class ItemKnn:
    """Similarity of items by the users who chose both, counted over the baskets before a cut:

    s(i, j) = |U_i ∩ U_j| / √((|U_i| + SHRINKAGE) · (|U_j| + SHRINKAGE)), and 0 for i = j.
    """

    def __init__(self, baskets: Sequence[Basket], table: Snapshot, until_ms: int) -> None:
        users: dict[str, int] = defaultdict(lambda: len(users))
        pairs = {
            (users[basket.user_id], row)
            for basket in baskets
            if basket.time_ms < until_ms
            for row in table.rows(basket.item_ids).tolist()
        }
        user, row = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
        users_items = sp.csr_matrix((np.ones(len(row), np.float32), (user, row)), shape=(len(users) or 1, len(table)))
        norms = sp.diags(1 / np.sqrt(np.asarray(users_items.sum(0)).ravel() + SHRINKAGE))
        similarity = norms @ (users_items.T @ users_items) @ norms  # (N, N)
        self._similarity = (similarity - sp.diags(similarity.diagonal())).tocsr()
        self._vectors = table.vectors

    def score_by_behavior(self, history: Sequences) -> NDArray[np.float32]:
        """Scores (B, N): similarity to the behaviors of each history, weighted by recency."""
        weights = _weigh_by_recency(history).numpy()  # (B, H)
        batch, length = weights.shape
        users = np.repeat(np.arange(batch), length)
        rows = history.rows.numpy().ravel()
        weighted = sp.csr_matrix((weights.ravel(), (users, rows)), shape=(batch, len(self._vectors)))
        scores: NDArray[np.float32] = (weighted @ self._similarity).toarray().astype(np.float32)
        return scores

    def score_by_content(self, history: Sequences) -> NDArray[np.float32]:
        """Scores (B, N): cosine to the recency-weighted mean of each history's vectors."""
        weights = _weigh_by_recency(history)  # (B, H)
        mean = (weights.unsqueeze(-1) * self._vectors[history.rows]).sum(1)  # (B, D)
        mean = torch.nn.functional.normalize(mean, dim=-1)
        scores: NDArray[np.float32] = (mean @ self._vectors.T).numpy()
        return scores


def _weigh_by_recency(history: Sequences) -> Tensor:
    """Weights (B, H): 1 / (1 + bucket of the behavior's age), 0 for padding."""
    return (history.rows > 0) / (1.0 + history.gaps)
