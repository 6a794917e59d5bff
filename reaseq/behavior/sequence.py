"""Histories as tensors, built by the same code in training and serving, for the behavior model and the ranker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reaseq.records import EVENT_TYPES, History
from reaseq.representation.item_table import Snapshot

HOUR_MS = 3_600_000
GAP_BUCKETS = 16  # bucket 0: no gap; bucket k: more than 2^(k−1) − 1 and at most 2^k − 1 hours; the last one has no upper limit
TYPES = len(EVENT_TYPES) + 1


@dataclass(frozen=True)
class Sequences:
    """B histories of the latest H behaviors each, padded on the left with row 0."""

    rows: Tensor  # (B, H) int64, rows of the item table
    types: Tensor  # (B, H) int64, 0 is padding
    gaps: Tensor  # (B, H) int64, bucket of the time from the behavior to now

    def __getitem__(self, users: Tensor | slice) -> "Sequences":
        return Sequences(self.rows[users], self.types[users], self.gaps[users])

    def to(self, device: torch.device) -> "Sequences":
        """A copy on a device."""
        return Sequences(self.rows.to(device), self.types.to(device), self.gaps.to(device))


def build_sequences(histories: Sequence[History], now_ms: Sequence[int], table: Snapshot, length: int) -> Sequences:
    """The latest `length` behaviors of each history as tensors; gaps are relative to `now_ms` of each."""
    rows = np.zeros((len(histories), length), np.int64)
    types = np.zeros_like(rows)
    times = np.zeros_like(rows)
    for user, history in enumerate(histories):
        count = min(len(history.item_ids), length)
        if count:
            rows[user, -count:] = table.rows(history.item_ids[-count:]).cpu()
            types[user, -count:] = history.types[-count:]
            times[user, -count:] = history.times_ms[-count:]
    ago_hours = np.maximum(np.asarray(now_ms, np.int64)[:, None] - times, 0) / HOUR_MS
    gaps = np.minimum(np.ceil(np.log2(ago_hours + 1)), GAP_BUCKETS - 1).astype(np.int64)
    return Sequences(torch.from_numpy(rows), torch.from_numpy(types), torch.from_numpy(np.where(types > 0, gaps, 0)))


def to_weekday(times_ms: Tensor) -> Tensor:
    """Day of the week of each time (B,), 0 is Monday."""
    return (times_ms // 86_400_000 + 3) % 7  # the epoch starts on a Thursday


def to_month(times_ms: Tensor) -> Tensor:
    """Month of the year of each time (B,), 0 is January; accurate to about a day."""
    day_of_year = (times_ms // 86_400_000 % 1461) % 365.25
    return (day_of_year / 30.4375).long().clamp(max=11)
