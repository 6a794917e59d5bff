"""Tensors that a model derives from the contents of items, kept up to date as the item table grows."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from reaseq.representation.contents import Contents, GrowableTensors
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds


@dataclass(frozen=True)
class Derivation:
    """The derived tensors of one snapshot's S slots."""

    table: Snapshot
    tensors: tuple[Tensor, ...]  # (S, …) each
    sums: tuple[Tensor, ...]  # (…) each, over all slots except the unknown item's


class DerivedTensors:
    """Derives tensors of each slot from its contents and its trained id, and computes only those of new slots.

    `derive` maps the contents of n slots and their trained ids (n,) to tensors (n, …). Safe to use from several threads.
    """

    def __init__(self, derive: Callable[[Contents, Tensor], tuple[Tensor, ...]], ids: TrainedIds) -> None:
        self._derive = derive
        self._ids = ids
        self._newest: tuple[GrowableTensors, Derivation] | None = None
        self._lock = threading.Lock()

    def get(self, table: Snapshot) -> Derivation:
        """The tensors of a snapshot. They have more slots than the snapshot if a newer one has been derived already."""
        with self._lock:
            return self._get(table)

    def _get(self, table: Snapshot) -> Derivation:
        newest = self._newest
        if newest and table.grows_into(newest[1].table):
            return newest[1]  # an older snapshot has the same slots at the same indices
        if newest is None or not newest[1].table.grows_into(table):
            first = self._derive_from(table, 0)
            newest = GrowableTensors(*first), Derivation(table, first, tuple(tensor[1:].sum(0) for tensor in first))
        else:
            tensors, previous = newest
            added = self._derive_from(table, len(tensors))
            tensors.append(*added)
            sums = tuple(old + tensor.sum(0) for old, tensor in zip(previous.sums, added, strict=True))
            newest = tensors, Derivation(table, tensors.view(), sums)
        self._newest = newest
        return newest[1]

    def _derive_from(self, table: Snapshot, start: int) -> tuple[Tensor, ...]:
        return self._derive(table.contents[start:], self._ids.number_rows(table, table.rows_of_slots[start:]))
