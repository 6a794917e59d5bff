"""Tensors that a model derives from the contents of items, kept up to date as the item table grows."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from reaseq.representation.contents import Contents, GrowableTensors
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds


@dataclass(frozen=True)
class Derivation:
    """The derived tensors of one snapshot's S slots."""

    table: Snapshot
    tensors: tuple[Tensor, ...]  # (S, …) each
    sums: tuple[Tensor, ...]  # (…) each, float64, over the items' current slots

    @cached_property
    def means(self) -> tuple[Tensor, ...]:
        """The means over the items (…). Slots of replaced contents do not count, so equal catalogs give equal means."""
        items = max(1, len(self.table) - 1)
        return tuple((total / items).to(tensor.dtype) for total, tensor in zip(self.sums, self.tensors, strict=True))


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
            newest = GrowableTensors(*first), Derivation(table, first, _sum(first, table.slots[1:]))
        else:
            tensors, previous = newest
            tensors.append(*self._derive_from(table, len(tensors)))
            newest = tensors, Derivation(table, tensors.view(), _update_sums(previous, table, tensors.view()))
        self._newest = newest
        return newest[1]

    def _derive_from(self, table: Snapshot, start: int) -> tuple[Tensor, ...]:
        return self._derive(table.contents[start:], self._ids.number_rows(table, table.rows_of_slots[start:]))


def _update_sums(previous: Derivation, table: Snapshot, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The sums of a snapshot that `previous` has grown into, at the cost of what has changed."""
    old, new = previous.table.slots[1:], table.slots[1:]
    replaced = new[: len(old)] != old
    added = torch.cat([new[: len(old)][replaced], new[len(old) :]])
    changes = zip(previous.sums, _sum(tensors, added), _sum(tensors, old[replaced]), strict=True)
    return tuple(total + plus - minus for total, plus, minus in changes)


def _sum(tensors: tuple[Tensor, ...], slots: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor[slots].sum(0, dtype=torch.float64) for tensor in tensors)
