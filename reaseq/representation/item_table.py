"""The item table: every item's features as dense tensors, kept current by feature records.

Reading hundreds of item rows from any store per request is too slow; the ranker and the behavior model index this table
instead. Readers take a `Snapshot` and keep it for as long as they need: an update swaps in a new one, rows never move.

What an item is stands in a *slot* that is written once: an update writes another slot and points the item's row to it. So an
update costs what it changes plus a copy of the few bytes a row that say where its slot is, its price and whether it is on
sale; whoever derives tensors from the contents derives those of the new slots alone. Slots that no row points to are dropped
when the buffers are full, in a new *generation* of the table.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reaseq import float16
from reaseq.errors import SpaceMismatch
from reaseq.knowledge.vocabulary import CLAIMS_LIMIT, Vocabulary
from reaseq.records import ItemFeatures, Version
from reaseq.representation.contents import Contents, GrowableTensors

NO_PRICE = -1.0


@dataclass(frozen=True)
class Snapshot:
    """The table at one moment: N rows, S slots. Row 0 is the unknown item, never live."""

    ids: list[str]  # may already be longer than N: rows are only ever appended
    index: dict[str, int]
    slots: Tensor  # (N,) int64: where each row's contents stand
    rows_of_slots: Tensor  # (S,) int64: the row that each slot was written for
    contents: Contents  # (S, …)
    prices: Tensor  # (N,) float32, NO_PRICE where unknown
    listed_ms: Tensor  # (N,) int64
    live: Tensor  # (N,) bool
    generation: int = 0

    def __len__(self) -> int:
        return len(self.live)

    def rows(self, item_ids: Sequence[str]) -> Tensor:
        """Row of each item (len(item_ids),), 0 for an item the table does not know."""
        row_by_id = self.index.get
        found = np.array([row_by_id(item_id, 0) for item_id in item_ids], np.int64)
        found[found >= len(self)] = 0  # listed since
        return torch.from_numpy(found).to(self.live.device)

    def grows_into(self, newer: "Snapshot") -> bool:
        """Whether all slots of this snapshot stand at the same places in that one."""
        return self.index is newer.index and self.generation == newer.generation and len(self.contents) <= len(newer.contents)

    def nearest(self, vector: Tensor, count: int) -> list[tuple[int, float]]:
        """The rows on sale whose vectors lie closest to a unit vector (D,), and their cosines."""
        vectors = self.contents.vectors
        cosines = (vectors @ vector.to(vectors))[self.slots]  # (N,)
        found = cosines.masked_fill(~self.live, -torch.inf).topk(min(count, int(self.live.sum())))
        return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))

    def neighbors(self, row: int, count: int) -> list[tuple[int, float]]:
        """The same of an item's own vector, without that item."""
        near = self.nearest(self.contents.vectors[self.slots[row]], count + 1)
        return [(other, cosine) for other, cosine in near if other != row][:count]

    def get_claims(self, row: int) -> set[int]:
        """The numbers of the claims that an item bears."""
        return {claim for claim in self.contents.claims[self.slots[row]].tolist() if claim}

    @property
    def vectors(self) -> Tensor:
        """The content vectors in order of the rows (N, D), a copy."""
        return self.contents.vectors[self.slots]

    def to(self, device: torch.device) -> "Snapshot":
        """The same on a device."""
        slots, rows, prices, listed_ms, live = (
            tensor.to(device) for tensor in (self.slots, self.rows_of_slots, self.prices, self.listed_ms, self.live)
        )
        return Snapshot(self.ids, self.index, slots, rows, self.contents.to(device), prices, listed_ms, live, self.generation)

    def by_id(self) -> "Snapshot":
        """The same table with its rows in order of item id: equal for equal catalogs, in whatever order they came.

        Sums over the table round differently in another order, so what must be reproducible is computed on this one.
        """
        order = sorted(range(len(self)), key=self.ids.__getitem__)  # the unknown item, "", stays first
        columns = (self.prices[order], self.listed_ms[order], self.live[order])
        return build_snapshot([self.ids[row] for row in order], self.contents[self.slots[order]], *columns)


def build_snapshot(ids: list[str], contents: Contents, prices: Tensor, listed_ms: Tensor, live: Tensor) -> Snapshot:
    """A table whose slots are its rows, in the order of `ids`; the first is the unknown item, ""."""
    index = {item_id: row for row, item_id in enumerate(ids) if row}
    return Snapshot(ids, index, torch.arange(len(ids)), torch.arange(len(ids)), contents, prices, listed_ms, live)


class ItemTable:
    """Applies feature records, newest wins, and hands out snapshots."""

    def __init__(self, vocabulary: Vocabulary, space_id: str, dim: int, device: str = "cpu") -> None:
        self._vocabulary = vocabulary
        self.space_id = space_id
        self._lock = threading.Lock()
        self._versions: dict[str, Version] = {}
        self._slots = GrowableTensors(
            torch.zeros(1, dim, device=device),
            torch.zeros(1, CLAIMS_LIMIT, dtype=torch.long, device=device),
            torch.zeros(1, CLAIMS_LIMIT, device=device),
            torch.zeros(1, dtype=torch.long, device=device),
        )
        contents, rows_of_slots = self._contents()
        self._snapshot = Snapshot(
            ids=[""],
            index={},
            slots=torch.zeros(1, dtype=torch.long, device=device),
            rows_of_slots=rows_of_slots,
            contents=contents,
            prices=torch.full((1,), NO_PRICE, device=device),
            listed_ms=torch.zeros(1, dtype=torch.long, device=device),
            live=torch.zeros(1, dtype=torch.bool, device=device),
        )

    @property
    def snapshot(self) -> Snapshot:
        """The newest state; consistent, and never changed after."""
        return self._snapshot

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take, with their room to grow; ids and their index come on top."""
        table = self._snapshot
        return self._slots.nbytes + sum(of.nbytes for of in (table.slots, table.prices, table.listed_ms, table.live))

    def knows(self, item_id: str) -> bool:
        """Whether the item has been onboarded."""
        return item_id in self._snapshot.index

    def version(self, item_id: str) -> Version | None:
        """Event time and revision of the record that the table holds of an item."""
        return self._versions.get(item_id)

    def cosine(self, some: Sequence[str], others: Sequence[str]) -> float:
        """Cosine of the mean vectors of two groups of items; 1 where either has none that is known."""
        table = self._snapshot
        first, second = (  # (D,) each; row 0 is all zeros
            table.contents.vectors[table.slots[table.rows(ids)]].sum(0) for ids in (some, others)
        )
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
                if record.version > self._versions.get(record.item_id, (-1, -1)):
                    self._check_space(record)
                    self._versions[record.item_id] = record.version
                    fresh[record.item_id] = record
            if fresh:
                self._snapshot = self._with(list(fresh.values()))
            return len(fresh)

    def _check_space(self, record: ItemFeatures) -> None:
        if record.status != "delisted" and record.space_id != self.space_id:
            raise SpaceMismatch(
                f"item {record.item_id}: vector of space {record.space_id!r} in a table of space {self.space_id!r}"
            )

    def _with(self, records: list[ItemFeatures]) -> Snapshot:
        old = self._snapshot
        for record in records:
            if record.item_id not in old.index:
                old.index[record.item_id] = len(old.ids)
                old.ids.append(record.item_id)
        rows = torch.tensor([old.index[record.item_id] for record in records], device=old.live.device)
        slots, generation = _grown(old.slots, len(old.ids)), old.generation
        written = [record for record in records if record.status != "delisted"]
        if self._slots.room < len(written) and len(self._slots) > 2 * len(old):
            slots, generation = self._compacted(slots), generation + 1
        kept = torch.tensor([record.status != "delisted" for record in records], device=old.live.device)
        slots[rows[kept]] = torch.arange(len(self._slots), len(self._slots) + len(written), device=slots.device)
        if written:
            self._slots.append(*self._build_contents(written), rows[kept])
        prices, listed_ms, live = (_grown(of, len(old.ids)) for of in (old.prices, old.listed_ms, old.live))
        told = [NO_PRICE if record.price is None else record.price for record in written]
        prices[rows[kept]] = torch.tensor(told, device=prices.device)
        listed_ms[rows] = torch.tensor([record.listed_ms for record in records], device=listed_ms.device)
        live[rows] = kept
        contents, rows_of_slots = self._contents()
        return Snapshot(old.ids, old.index, slots, rows_of_slots, contents, prices, listed_ms, live, generation)

    def _compacted(self, slots: Tensor) -> Tensor:
        """Drop the slots that no row points to; where the rows' slots are then."""
        self._slots = GrowableTensors(*(column[slots] for column in self._slots.view()))
        return torch.arange(len(slots), device=slots.device)

    def _contents(self) -> tuple[Contents, Tensor]:
        vectors, claims, confidences, rows = self._slots.view()
        return Contents(vectors, claims, confidences), rows

    def _build_contents(self, records: list[ItemFeatures]) -> tuple[Tensor, Tensor, Tensor]:
        vectors = float16.unpack_rows([record.vector for record in records])
        claims = np.zeros((len(records), CLAIMS_LIMIT), np.int64)
        confidences = np.zeros((len(records), CLAIMS_LIMIT), np.float32)
        for place, record in enumerate(records):
            ids, sure = self._vocabulary.claim_ids(record.knowledge)
            count = min(len(ids), CLAIMS_LIMIT)
            claims[place, :count], confidences[place, :count] = ids[:count], sure[:count]
        return torch.from_numpy(vectors), torch.from_numpy(claims), torch.from_numpy(confidences)


def _grown(tensor: Tensor, rows: int) -> Tensor:
    """A copy with that many rows, the further ones zeros."""
    grown = tensor.new_zeros(rows)
    grown[: len(tensor)] = tensor
    return grown
