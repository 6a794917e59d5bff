"""Tensors that a model derives from what items are, kept beside an item table as it grows."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from reaseq.representation.contents import Contents, GrowableTensors
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds


@dataclass(frozen=True)
class Derivation:
    """What stands derived for one snapshot's S slots."""

    table: Snapshot
    tensors: tuple[Tensor, ...]  # (S, …) each
    sums: tuple[Tensor, ...]  # (…) each, over all slots but the unknown item's


class DerivedTensors:
    """Derives tensors of each slot from its contents and its trained number; only those of new slots are computed.

    `derive` turns contents of n slots and their numbers (n,) into tensors (n, …).
    """

    def __init__(self, derive: Callable[[Contents, Tensor], tuple[Tensor, ...]], ids: TrainedIds) -> None:
        self._derive = derive
        self._ids = ids
        self._held: tuple[GrowableTensors, Derivation] | None = None
        self._lock = threading.Lock()

    def get(self, table: Snapshot) -> Derivation:
        """The tensors of a snapshot. Threads may ask at once."""
        with self._lock:
            return self._get(table)

    def _get(self, table: Snapshot) -> Derivation:
        held = self._held
        if held and table.grows_into(held[1].table):
            return held[1]  # the slots of an older snapshot stand at the same places
        if held is None or not held[1].table.grows_into(table):
            first = self._made(table, 0)
            held = GrowableTensors(*first), Derivation(table, first, tuple(tensor[1:].sum(0) for tensor in first))
        else:
            grown, before = held
            added = self._made(table, len(grown))
            grown.append(*added)
            sums = tuple(old + tensor.sum(0) for old, tensor in zip(before.sums, added, strict=True))
            held = grown, Derivation(table, grown.view(), sums)
        self._held = held
        return held[1]

    def _made(self, table: Snapshot, start: int) -> tuple[Tensor, ...]:
        return self._derive(table.contents[start:], self._ids.number_rows(table, table.rows_of_slots[start:]))
