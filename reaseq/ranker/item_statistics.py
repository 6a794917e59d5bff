"""What the log until a cut says of items: which of them go together, how many users took each, and how often again.

Which go together is a linear item-item model, EASE^R (Steck 2019). Its weights B minimize ‖X − XB‖² + λ‖B‖² with a zero
diagonal, for the binary matrix X of users and items:

    P = (XᵀX + λI)⁻¹,  B_ij = −P_ij / P_jj,  B_jj = 0.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from reaseq.artifacts import Artifact
from reaseq.days import DAY_MS
from reaseq.errors import ArtifactError
from reaseq.records import History
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

ITEMS_LIMIT = 8000  # the most frequent items have weights: the inverse costs the cube of their number
NEIGHBORS_LIMIT = 64  # largest weights kept of each item
REGULARIZATION = 500.0
HALF_LIFE_DAYS = 60.0


class ItemNumbers(NamedTuple):
    """Numbers of one candidate for one user. NaN for an item without statistics; the sums are NaN without a history too."""

    together: float  # sum of the weights from the user's distinct items
    together_60d: float  # the same, decayed with the age of the user's latest behavior with each item
    together_latest: float  # from the items of the user's latest moment
    users: float  # who took the candidate
    again_share: float  # of them, those who took it at more than one time


FILE, IDS_FILE = "item_statistics.safetensors", "item_statistics.json"
ITEM_NUMBERS = len(ItemNumbers._fields)
_SUMS = 3
_COLUMNS = ("neighbors", "weights", "users", "again_share")


@dataclass(frozen=True)
class ItemStatistics:
    """Statistics of N − 1 items. Index 0 stands for every other item."""

    ids: TrainedIds
    neighbors: NDArray[np.int32]  # (N, K) the items toward which each has the largest weights
    weights: NDArray[np.float32]  # (N, K)
    users: NDArray[np.float32]  # (N,)
    again_share: NDArray[np.float32]  # (N,)

    def numbers(self, history: History, now_ms: int, candidates: NDArray[np.int64], table: Snapshot) -> NDArray[np.float32]:
        """The numbers (C, ITEM_NUMBERS) of candidates' rows (C,) for a user with a history."""
        numbers = np.full((len(candidates), ITEM_NUMBERS), np.nan, np.float32)
        items = self.ids.number_rows(table, torch.from_numpy(candidates)).numpy()
        known = items > 0
        if history.item_ids:
            for column, sums in enumerate(self._sum_weights(history, now_ms)):
                numbers[known, column] = sums[items[known]]
        numbers[known, _SUMS] = self.users[items[known]]
        numbers[known, _SUMS + 1] = self.again_share[items[known]]
        return numbers

    def _sum_weights(self, history: History, now_ms: int) -> list[NDArray[np.float64]]:
        """Sums of weights (N,) toward every item: the first numbers."""
        latest_ms = dict(zip(history.item_ids, history.times_ms, strict=True))  # an item's last time stays
        items, times_ms = self.ids.number_ids(list(latest_ms)), np.fromiter(latest_ms.values(), np.int64)
        decay = np.exp2(-np.maximum(now_ms - times_ms, 0) / DAY_MS / HALF_LIFE_DAYS)
        neighbors, weights = self.neighbors[items], self.weights[items]
        latest = times_ms == times_ms.max()

        def total(targets: NDArray[np.int32], weights: NDArray[np.floating]) -> NDArray[np.float64]:
            return np.asarray(np.bincount(targets.ravel(), weights.ravel(), len(self.neighbors)), np.float64)

        return [
            total(neighbors, weights),
            total(neighbors, weights * decay[:, None]),
            total(neighbors[latest], weights[latest]),
        ]


def fit(moments: Sequence[tuple[str, Sequence[str]]]) -> ItemStatistics:
    """The statistics of (user, items) moments, of which a user may have many."""
    times = Counter((user_id, item_id) for user_id, item_ids in moments for item_id in dict.fromkeys(item_ids))
    users = Counter(item_id for _, item_id in times)
    again = Counter(item_id for (_, item_id), count in times.items() if count > 1)
    ids = TrainedIds(sorted(sorted(users, key=lambda item_id: (-users[item_id], item_id))[:ITEMS_LIMIT]))
    weights = fit_weights(_build_matrix(list(times), ids), REGULARIZATION)
    kept = min(NEIGHBORS_LIMIT, len(weights))
    largest = np.argpartition(-np.abs(weights), kept - 1, axis=1)[:, :kept]
    neighbors, values = np.zeros((len(ids), kept), np.int32), np.zeros((len(ids), kept), np.float32)
    neighbors[1:], values[1:] = largest + 1, np.take_along_axis(weights, largest, axis=1)
    by_users = np.array([0, *(users[item_id] for item_id in ids.item_ids)], np.float32)
    by_again = np.array([0, *(again[item_id] for item_id in ids.item_ids)], np.float32)
    return ItemStatistics(ids, neighbors, values, by_users, np.asarray(by_again / np.maximum(by_users, 1), np.float32))


def save_statistics(statistics: ItemStatistics) -> dict[str, bytes]:
    """The files of an artifact that hold the statistics."""
    columns = {name: getattr(statistics, name) for name in _COLUMNS}
    return {FILE: save(columns), IDS_FILE: json.dumps(statistics.ids.item_ids).encode()}


def load_statistics(artifact: Artifact) -> ItemStatistics:
    """The statistics in an artifact. Raises ArtifactError if they cannot be loaded."""
    with artifact.reading():
        statistics = ItemStatistics(
            TrainedIds(json.loads((artifact.path / IDS_FILE).read_text())), **load_file(artifact.path / FILE)
        )
        lengths = {name: len(getattr(statistics, name)) for name in _COLUMNS}
        if set(lengths.values()) != {len(statistics.ids)} or statistics.neighbors.max() >= len(statistics.ids):
            raise ArtifactError(f"{artifact.path / FILE} does not fit {IDS_FILE}: {lengths} for {len(statistics.ids)} ids")
    return statistics


def _build_matrix(pairs: Sequence[tuple[str, str]], ids: TrainedIds) -> sp.csr_matrix:
    """Which user took which of the items (users, N − 1)."""
    users: dict[str, int] = {}
    rows = np.array([users.setdefault(user_id, len(users)) for user_id, _ in pairs], np.int64)
    columns = ids.number_ids([item_id for _, item_id in pairs]) - 1
    known = columns >= 0
    shape = (len(users), len(ids) - 1)
    return sp.csr_matrix((np.ones(int(known.sum()), np.float32), (rows[known], columns[known])), shape=shape)


def fit_weights(taken: sp.csr_matrix, regularization: float) -> NDArray[np.float32]:
    """The weights B (N, N) of EASE^R for users and items (users, N)."""
    gram = (taken.T @ taken).toarray().astype(np.float32)
    gram[np.diag_indices(len(gram))] += regularization
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(gram))).numpy()
    weights = -inverse / np.diag(inverse)
    weights[np.diag_indices(len(weights))] = 0.0
    return np.asarray(weights, np.float32)
