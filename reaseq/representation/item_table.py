"""The item table: every item's features as dense tensors, kept current by feature records.

Reading hundreds of item rows from a store per request is too slow, so the ranker and the behavior model index this table
instead. Readers take a `Snapshot` and keep it as long as they need it: an update swaps in a new one, and rows never move.

An item's contents are in a *slot*, which is written once: an update writes a new slot and points the item's row to it. So the
cost of an update is what it changes, plus a copy of the few bytes per row that hold the slot, the price, the listing time and
whether the item is on sale; models that derive tensors from contents compute only those of new slots. When the buffers are
full, slots that no row points to are dropped, which starts a new *generation* of the table.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq import float16
from reaseq.declaration import Declaration, Field
from reaseq.declaration.attributes import Value
from reaseq.declaration.declaration import NOTHING_DECLARED
from reaseq.errors import InvalidRecord, ReaSeqError, SpaceMismatch
from reaseq.knowledge.vocabulary import CLAIMS_LIMIT, Vocabulary
from reaseq.records import ItemFeatures, Version
from reaseq.representation.attributes import Attributes, build_attributes
from reaseq.representation.contents import Contents, GrowableTensors

NO_PRICE = -1.0


@dataclass(frozen=True)
class Snapshot:
    """The table at one moment: N rows, S slots. Row 0 is the unknown item, never live."""

    ids: list[str]  # may be longer than N, since newer snapshots append to it
    index: dict[str, int]
    slots: Tensor  # (N,) int64 the slot of each row
    rows_of_slots: Tensor  # (S,) int64 the row that each slot was written for
    contents: Contents  # (S, …)
    prices: Tensor  # (N,) float32, NO_PRICE where unknown
    listed_ms: Tensor  # (N,) int64
    live: Tensor  # (N,) bool
    generation: int = 0

    def __len__(self) -> int:
        return len(self.live)

    def rows(self, item_ids: Sequence[str]) -> Tensor:
        """The row of each item (len(item_ids),), 0 if the table does not know it."""
        rows = np.fromiter(map(self.index.get, item_ids, repeat(0)), np.int64, len(item_ids))
        rows[rows >= len(self)] = 0  # added by a newer snapshot
        return torch.from_numpy(rows).to(self.live.device)

    def grows_into(self, newer: "Snapshot") -> bool:
        """Whether every slot of this snapshot has the same index in `newer`."""
        return self.index is newer.index and self.generation == newer.generation and len(self.contents) <= len(newer.contents)

    def nearest(self, vector: Tensor, count: int) -> list[tuple[int, float]]:
        """The `count` rows on sale closest to a unit vector (D,), with their cosines."""
        vectors = self.contents.vectors
        cosines = (vectors @ vector.to(vectors))[self.slots]  # (N,)
        top = cosines.masked_fill(~self.live, -torch.inf).topk(min(count, int(self.live.sum())))
        return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))

    def neighbors(self, row: int, count: int) -> list[tuple[int, float]]:
        """The `count` other rows on sale closest to an item's own vector, with their cosines."""
        near = self.nearest(self.contents.vectors[self.slots[row]], count + 1)
        return [(other, cosine) for other, cosine in near if other != row][:count]

    def get_claims(self, row: int) -> set[int]:
        """The claim ids of a row."""
        return {claim for claim in self.contents.claims[self.slots[row]].tolist() if claim}

    @property
    def vectors(self) -> Tensor:
        """A copy of the content vectors in order of the rows (N, D)."""
        return self.contents.vectors[self.slots]

    def to(self, device: torch.device) -> "Snapshot":
        """A copy on a device."""
        slots, rows, prices, listed_ms, live = (
            tensor.to(device) for tensor in (self.slots, self.rows_of_slots, self.prices, self.listed_ms, self.live)
        )
        return Snapshot(self.ids, self.index, slots, rows, self.contents.to(device), prices, listed_ms, live, self.generation)

    def by_id(self) -> "Snapshot":
        """The same table with its rows in order of item id, so that equal catalogs give equal tables in any order of arrival.

        Sums over the table round differently in another order; use this for results that must be reproducible.
        """
        order = sorted(range(len(self)), key=self.ids.__getitem__)  # the unknown item, "", stays first
        columns = (self.prices[order], self.listed_ms[order], self.live[order])
        return build_snapshot([self.ids[row] for row in order], self.contents[self.slots[order]], *columns)


def build_snapshot(ids: list[str], contents: Contents, prices: Tensor, listed_ms: Tensor, live: Tensor) -> Snapshot:
    """A snapshot with one slot per row, in the order of `ids`, the first of which is the unknown item, ""."""
    index = {item_id: row for row, item_id in enumerate(ids) if row}
    return Snapshot(ids, index, torch.arange(len(ids)), torch.arange(len(ids)), contents, prices, listed_ms, live)


class Rejection(NamedTuple):
    """A record that the table cannot hold, and why."""

    record: ItemFeatures
    error: ReaSeqError


class _Content(NamedTuple):
    """What one record puts into a slot."""

    vector: NDArray[np.float32]  # (D,)
    claims: NDArray[np.int32]  # (C,)
    confidences: NDArray[np.float16]  # (C,)
    attributes: list[Value | None]


class ItemTable:
    """Applies feature records, newest wins, and provides snapshots. Safe to use from several threads."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        space_id: str,
        dim: int,
        device: str = "cpu",
        declaration: Declaration = NOTHING_DECLARED,
    ) -> None:
        self._vocabulary = vocabulary
        self._declaration = declaration
        self.space_id = space_id
        self._dim = dim
        self._lock = threading.Lock()
        self._versions: dict[str, Version] = {}
        unknown = build_attributes(declaration.item_fields, [[None] * len(declaration.item_attributes)])
        self._slots = GrowableTensors(
            torch.zeros(1, dim, device=device),
            torch.zeros(1, CLAIMS_LIMIT, dtype=torch.long, device=device),
            torch.zeros(1, CLAIMS_LIMIT, device=device),
            unknown.numbers.to(device),
            unknown.codes.to(device),
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
        """The newest state; it is consistent and never changes."""
        return self._snapshot

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take, spare slots included, without the ids and their index."""
        table = self._snapshot
        columns = (table.slots, table.prices, table.listed_ms, table.live)
        return self._slots.nbytes + sum(column.nbytes for column in columns)

    def knows(self, item_id: str) -> bool:
        """Whether the item has been onboarded: the snapshot has a row for it."""
        table = self._snapshot
        return 0 < table.index.get(item_id, 0) < len(table)  # the index may have items of the next snapshot already

    def version(self, item_id: str) -> Version | None:
        """The version of an item's newest applied record, None without one."""
        return self._versions.get(item_id)

    def cosine(self, some: Sequence[str], others: Sequence[str]) -> float:
        """Cosine of the mean vectors of two groups of items; 1 if either group has no known item."""
        table = self._snapshot
        first, second = (  # (D,) each; row 0 is all zeros
            table.contents.vectors[table.slots[table.rows(ids)]].sum(0) for ids in (some, others)
        )
        if not first.any() or not second.any():
            return 1.0
        return float(torch.nn.functional.cosine_similarity(first, second, dim=0))

    def apply(self, records: Sequence[ItemFeatures]) -> list[Rejection]:
        """Apply records, ignoring stale ones. Returns those that the table cannot hold; they change nothing.

        These are records with a vector of another space or size, or with claims that no vocabulary leads from to the table's.
        """
        rejections = []
        with self._lock:
            fresh: dict[str, tuple[ItemFeatures, _Content | None]] = {}
            for record in records:
                if record.version > self._versions.get(record.item_id, (-1, -1)):
                    try:
                        content = self._read_content(record) if record.status != "delisted" else None
                    except ReaSeqError as error:
                        rejections.append(Rejection(record, error))
                        continue
                    self._versions[record.item_id] = record.version
                    fresh[record.item_id] = (record, content)
            if fresh:
                self._snapshot = self._updated(*zip(*fresh.values(), strict=True))
        return rejections

    def _read_content(self, record: ItemFeatures) -> _Content:
        if record.space_id != self.space_id:
            raise SpaceMismatch(
                f"item {record.item_id} has a vector of space {record.space_id!r}, but the table is of space {self.space_id!r}"
            )
        if len(record.vector) != self._dim * float16.FLOAT16.itemsize:
            raise InvalidRecord("invalid_vector", f"the vector has {len(record.vector)} bytes, not {self._dim} float16 numbers")
        vector = float16.unpack(record.vector)
        if not np.isfinite(vector).all():
            raise InvalidRecord("invalid_vector", "the vector has numbers that are not finite")
        claims, confidences = self._vocabulary.claim_ids(record.knowledge)
        return _Content(vector, claims, confidences, self._declaration.read_item(record.attributes))

    def _updated(self, records: Sequence[ItemFeatures], contents: Sequence[_Content | None]) -> Snapshot:
        old = self._snapshot
        for record in records:
            if record.item_id not in old.index:
                old.index[record.item_id] = len(old.ids)
                old.ids.append(record.item_id)
        rows = torch.tensor([old.index[record.item_id] for record in records], device=old.live.device)
        slots, generation = _enlarged(old.slots, len(old.ids)), old.generation
        listed = [record for record in records if record.status != "delisted"]
        if self._slots.spare_rows < len(listed) and len(self._slots) > 2 * len(old):
            slots, generation = self._compacted(slots), generation + 1
        is_listed = torch.tensor([record.status != "delisted" for record in records], device=old.live.device)
        slots[rows[is_listed]] = torch.arange(len(self._slots), len(self._slots) + len(listed), device=slots.device)
        if listed:
            stacked = _stack([content for content in contents if content], self._declaration.item_fields)
            self._slots.append(*stacked, rows[is_listed])
        prices, listed_ms, live = (_enlarged(column, len(old.ids)) for column in (old.prices, old.listed_ms, old.live))
        new_prices = [NO_PRICE if record.price is None else record.price for record in listed]
        prices[rows[is_listed]] = torch.tensor(new_prices, device=prices.device)
        listed_ms[rows] = torch.tensor([record.listed_ms for record in records], device=listed_ms.device)
        live[rows] = is_listed
        slot_contents, rows_of_slots = self._contents()
        return Snapshot(old.ids, old.index, slots, rows_of_slots, slot_contents, prices, listed_ms, live, generation)

    def _compacted(self, slots: Tensor) -> Tensor:
        """Drop the slots that no row points to; returns the new slots of the rows."""
        self._slots = GrowableTensors(*(column[slots] for column in self._slots.view()))
        return torch.arange(len(slots), device=slots.device)

    def _contents(self) -> tuple[Contents, Tensor]:
        vectors, claims, confidences, numbers, codes, rows = self._slots.view()
        attributes = Attributes(self._declaration.item_fields, numbers, codes)
        return Contents(vectors, claims, confidences, attributes), rows


def _stack(contents: Sequence[_Content], fields: tuple[Field, ...]) -> tuple[Tensor, ...]:
    """Vectors (n, D), claims (n, CLAIMS_LIMIT), confidences (n, CLAIMS_LIMIT), and the numbers and codes of attributes."""
    claims = np.zeros((len(contents), CLAIMS_LIMIT), np.int64)
    confidences = np.zeros((len(contents), CLAIMS_LIMIT), np.float32)
    for index, content in enumerate(contents):
        count = min(len(content.claims), CLAIMS_LIMIT)
        claims[index, :count], confidences[index, :count] = content.claims[:count], content.confidences[:count]
    vectors = np.stack([content.vector for content in contents])
    attributes = build_attributes(fields, [content.attributes for content in contents])
    arrays = (torch.from_numpy(array) for array in (vectors, claims, confidences))
    return *arrays, attributes.numbers, attributes.codes


def _enlarged(tensor: Tensor, rows: int) -> Tensor:
    """A copy with `rows` rows, the new ones zero."""
    enlarged = tensor.new_zeros(rows)
    enlarged[: len(tensor)] = tensor
    return enlarged
