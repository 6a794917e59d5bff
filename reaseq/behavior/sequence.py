"""Histories as tensors: what the behavior model and the ranker read of a user, from the same code in training and serving."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reaseq.records import EVENT_TYPES, History
from reaseq.representation.item_table import Snapshot

HOUR_MS = 3_600_000
GAP_BUCKETS = 16  # logarithmic: 0 = within the hour, each further bucket twice as far back, the last 2^14 hours
TYPES = len(EVENT_TYPES) + 1


@dataclass(frozen=True)
class Sequences:
    """B histories of the latest H behaviors each, padded on the left with row 0."""

    rows: Tensor  # (B, H) int64, rows of the item table
    types: Tensor  # (B, H) int64, 0 is padding
    gaps: Tensor  # (B, H) int64, bucket of the time from the behavior to now

    def __getitem__(self, places: Tensor) -> "Sequences":
        return Sequences(self.rows[places], self.types[places], self.gaps[places])

    def to(self, device: torch.device) -> "Sequences":
        """The same on a device."""
        return Sequences(self.rows.to(device), self.types.to(device), self.gaps.to(device))


def build_sequences(histories: Sequence[History], now_ms: Sequence[int], table: Snapshot, length: int) -> Sequences:
    """Tensors of `histories` as seen at `now_ms`, each cut to its latest `length` behaviors."""
    rows = np.zeros((len(histories), length), np.int64)
    types = np.zeros_like(rows)
    times = np.zeros_like(rows)
    for place, history in enumerate(histories):
        count = min(len(history.item_ids), length)
        if count:
            rows[place, -count:] = table.rows(history.item_ids[-count:]).cpu()
            types[place, -count:] = history.types[-count:]
            times[place, -count:] = history.times_ms[-count:]
    ago_hours = np.maximum(np.asarray(now_ms, np.int64)[:, None] - times, 0) / HOUR_MS
    gaps = np.minimum(np.ceil(np.log2(ago_hours + 1)), GAP_BUCKETS - 1).astype(np.int64)
    return Sequences(torch.from_numpy(rows), torch.from_numpy(types), torch.from_numpy(np.where(types > 0, gaps, 0)))


def to_weekday(times_ms: Tensor) -> Tensor:
    """Day of the week of each time (B,), 0 is Monday."""
    return (times_ms // 86_400_000 + 3) % 7  # the epoch began on a Thursday


def to_month(times_ms: Tensor) -> Tensor:
    """Month of the year 0…11 of each time (B,), exact to about a day."""
    day_of_year = (times_ms // 86_400_000 % 1461) % 365.25
    return (day_of_year / 30.4375).long().clamp(max=11)
