"""Maps the rows of an item table to the id embeddings of a model."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.representation.item_table import Snapshot


class TrainedIds:
    """The ids of the items a model was trained on, numbered from 1; 0 stands for every other item."""

    def __init__(self, item_ids: Sequence[str]) -> None:
        self.item_ids = list(item_ids)
        self._numbers = {item_id: number for number, item_id in enumerate(self.item_ids, start=1)}
        self._numbered: tuple[list[str], NDArray[np.int64]] = [], np.zeros(0, np.int64)  # ids of a table, numbers of its rows

    def __len__(self) -> int:
        return len(self.item_ids) + 1

    def number_ids(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """The number of each item id."""
        return np.array([self._numbers.get(item_id, 0) for item_id in item_ids], np.int64)

    def number(self, table: Snapshot) -> Tensor:
        """The number of each row of the table (N,)."""
        return self.number_rows(table, torch.arange(len(table), device=table.live.device))

    def number_rows(self, table: Snapshot, rows: Tensor) -> Tensor:
        """The numbers of the given rows (M,)."""
        return torch.from_numpy(self._number_table(table)[rows.cpu().numpy()]).to(rows.device)

    def _number_table(self, table: Snapshot) -> NDArray[np.int64]:
        """The numbers of at least the table's rows. They are kept, since rows never move: later, only new rows are numbered."""
        ids, numbers = self._numbered
        known = len(numbers) if ids is table.ids else 0
        if known < len(table):
            numbers = np.concatenate([numbers[:known], self.number_ids(table.ids[known : len(table)])])
            self._numbered = table.ids, numbers
        return numbers
