"""The item table: every item's features as dense tensors, kept current by feature records.

Reading hundreds of item rows from any store per request is too slow; the ranker and the behaviour model index this table
instead. Readers take a `Snapshot` and keep it for as long as they need: an update swaps in a new one, rows never move.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reaseq.errors import SpaceMismatch
from reaseq.knowledge.vocabulary import CLAIMS_LIMIT, Vocabulary
from reaseq.records import ItemFeatures

NO_PRICE = -1.0


@dataclass(frozen=True)
class Snapshot:
    """The table at one moment: N rows. Row 0 is the unknown item, never live."""

    ids: list[str]  # may already be longer than N: rows are only ever appended
    index: dict[str, int]
    vectors: Tensor  # (N, D) float32, unit length
    claims: Tensor  # (N, C) int64, 0 is padding
    confidences: Tensor  # (N, C) float32
    prices: Tensor  # (N,) float32, NO_PRICE where unknown
    listed_ms: Tensor  # (N,) int64
    live: Tensor  # (N,) bool

    def __len__(self) -> int:
        return len(self.live)

    @property
    def claim_shares(self) -> Tensor:
        """What each claim weighs in its item (N, C): the confidences, adding up to 1."""
        return self.confidences / self.confidences.sum(-1, keepdim=True).clamp(min=1e-6)

    def rows(self, item_ids: Sequence[str]) -> Tensor:
        """Row of each item (len(item_ids),), 0 for an item the table does not know."""
        size = len(self)
        found = [row if row < size else 0 for row in (self.index.get(item_id, 0) for item_id in item_ids)]
        return torch.tensor(found, dtype=torch.long)

    def to(self, device: torch.device) -> "Snapshot":
        """The same on a device."""
        tensors = (self.vectors, self.claims, self.confidences, self.prices, self.listed_ms, self.live)
        return Snapshot(self.ids, self.index, *(tensor.to(device) for tensor in tensors))

    def by_id(self) -> "Snapshot":
        """The same table with its rows in order of item id: equal for equal catalogues, in whatever order they came.

        Sums over the table round differently in another order, so what must be reproducible is computed on this one.
        """
        order = sorted(range(len(self)), key=self.ids.__getitem__)  # the unknown item, "", stays first
        ids = [self.ids[row] for row in order]
        tensors = (self.vectors, self.claims, self.confidences, self.prices, self.listed_ms, self.live)
        return Snapshot(ids, {item_id: row for row, item_id in enumerate(ids) if row}, *(tensor[order] for tensor in tensors))


class ItemTable:
    """Applies feature records, newest wins, and hands out snapshots."""

    def __init__(self, vocabulary: Vocabulary, space_id: str, dim: int, device: str = "cpu") -> None:
        self._vocabulary = vocabulary
        self._space_id = space_id
        self._lock = threading.Lock()
        self._order: dict[str, tuple[int, int]] = {}
        self._snapshot = Snapshot(
            ids=[""],
            index={},
            vectors=torch.zeros(1, dim, device=device),
            claims=torch.zeros(1, CLAIMS_LIMIT, dtype=torch.long, device=device),
            confidences=torch.zeros(1, CLAIMS_LIMIT, device=device),
            prices=torch.full((1,), NO_PRICE, device=device),
            listed_ms=torch.zeros(1, dtype=torch.long, device=device),
            live=torch.zeros(1, dtype=torch.bool, device=device),
        )

    @property
    def snapshot(self) -> Snapshot:
        """The newest state; consistent, and never changed after."""
        return self._snapshot

    def knows(self, item_id: str) -> bool:
        """Whether the item has been onboarded."""
        return item_id in self._snapshot.index

    def cosine(self, some: Sequence[str], others: Sequence[str]) -> float:
        """Cosine of the mean vectors of two groups of items; 1 where either has none that is known."""
        table = self._snapshot
        first, second = (table.vectors[table.rows(ids)].sum(0) for ids in (some, others))  # (D,) row 0 is all zeros
        if not first.any() or not second.any():
            return 1.0
        return float(torch.nn.functional.cosine_similarity(first, second, dim=0))

    def apply(self, records: Sequence[ItemFeatures]) -> int:
        """Take in records; older ones than the table holds change nothing. Returns how many did change something.

        Raises SpaceMismatch where a record's vector is of another space than the table's.
        """
        with self._lock:
            fresh: dict[str, ItemFeatures] = {}
            for record in records:
                order = (record.event_time_ms, record.revision)
                if order > self._order.get(record.item_id, (-1, -1)):
                    self._check_space(record)
                    self._order[record.item_id] = order
                    fresh[record.item_id] = record
            if fresh:
                self._snapshot = self._with(list(fresh.values()))
            return len(fresh)

    def _check_space(self, record: ItemFeatures) -> None:
        if record.stage != "delisted" and record.space_id != self._space_id:
            raise SpaceMismatch(
                f"item {record.item_id}: vector of space {record.space_id!r} in a table of space {self._space_id!r}"
            )

    def _with(self, records: list[ItemFeatures]) -> Snapshot:
        old = self._snapshot
        for record in records:
            if record.item_id not in old.index:
                old.index[record.item_id] = len(old.ids)
                old.ids.append(record.item_id)
        grown = Snapshot(
            old.ids,
            old.index,
            *(_grow(tensor, len(old.ids)) for tensor in (old.vectors, old.claims, old.confidences, old.prices)),
            *(_grow(tensor, len(old.ids)) for tensor in (old.listed_ms, old.live)),
        )
        for record in records:
            self._set(grown, old.index[record.item_id], record)
        return grown

    def _set(self, table: Snapshot, row: int, record: ItemFeatures) -> None:
        table.live[row] = record.stage != "delisted"
        table.listed_ms[row] = record.listed_ms
        if record.stage == "delisted":
            return
        table.vectors[row] = torch.from_numpy(np.frombuffer(record.vector, np.float16).astype(np.float32))
        ids, confidences = self._vocabulary.claim_ids(record.knowledge)
        table.claims[row] = 0
        table.confidences[row] = 0
        count = min(len(ids), CLAIMS_LIMIT)
        table.claims[row, :count] = torch.from_numpy(ids[:count].astype(np.int64))
        table.confidences[row, :count] = torch.from_numpy(confidences[:count].astype(np.float32))
        table.prices[row] = NO_PRICE if record.price is None else record.price


def _grow(tensor: Tensor, rows: int) -> Tensor:
    grown = tensor.new_zeros((rows, *tensor.shape[1:]))
    grown[: len(tensor)] = tensor
    return grown
