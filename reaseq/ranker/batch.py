"""Builds the ranker's input tensors from features of users and candidates, by the same code in training and serving."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.behavior.sequence import build_sequences
from reaseq.days import DAY_MS
from reaseq.ranker.item_statistics import ItemStatistics
from reaseq.ranker.model import RankerBatch, RankerConfig
from reaseq.ranker.numbers import (
    AGE_DAYS,
    NUMBERS,
    OWN_ITEMS,
    POPULARITY,
    PRICE,
    STATISTICS,
    TREND_DAY,
    TREND_WEEK,
)
from reaseq.ranker.own_items import own_items, read_prices
from reaseq.records import History, Inferred
from reaseq.representation.item_table import Snapshot

FEATURES_VERSION = "ranker-features.5"  # version of the model's inputs and weights; a ranker of another version is rejected


TREND_FLOOR = 0.1  # added to the longer count of a trend


@dataclass(frozen=True)
class RankedUser:
    """What is known of a user at the time of a ranking."""

    history: History
    inferred: Inferred
    now_ms: int
    statistics: ItemStatistics | None = None  # of the log before then


def build_batch(
    users: Sequence[RankedUser],
    candidates: Tensor,
    counts: NDArray[np.float32],
    scores: Tensor,
    table: Snapshot,
    config: RankerConfig,
) -> RankerBatch:
    """The batch of B users with candidates' rows (B, C), their counts (B, C, half-lives) and scores (B, C, config.scores)."""
    rows = np.zeros((len(users), config.inferred), np.int64)
    confidences = np.zeros((len(users), config.inferred), np.float32)
    for index, user in enumerate(users):
        count = min(len(user.inferred.item_ids), config.inferred)
        rows[index, :count] = table.rows(user.inferred.item_ids[:count]).cpu()
        confidences[index, :count] = user.inferred.confidences[:count]
    device, now_ms = candidates.device, [user.now_ms for user in users]
    histories = [user.history for user in users]
    return RankerBatch(
        history=build_sequences(histories, now_ms, table, config.history).to(device),
        inferred=torch.from_numpy(rows).to(device),
        confidences=torch.from_numpy(confidences * (rows > 0)).to(device),
        candidates=candidates,
        numbers=torch.cat(
            [
                _build_numbers(users, candidates, counts, table).to(device),
                scores,
                table.contents.attributes[table.slots[candidates]].select(config.attributes).numbers,
            ],
            dim=-1,
        ),
        now_ms=torch.tensor(now_ms, dtype=torch.long, device=device),
    )


def _build_numbers(users: Sequence[RankedUser], candidates: Tensor, counts: NDArray[np.float32], table: Snapshot) -> Tensor:
    """The numbers (B, C, NUMBERS) that are not scores, NaN where unknown."""
    rows = candidates.cpu().numpy()  # (B, C)
    now_ms = np.array([user.now_ms for user in users], np.int64)
    numbers = np.full((*rows.shape, NUMBERS), np.nan, np.float32)
    numbers[..., POPULARITY] = counts
    day, week, month = np.moveaxis(counts, -1, 0)
    numbers[..., TREND_DAY], numbers[..., TREND_WEEK] = day / (week + TREND_FLOOR), week / (month + TREND_FLOOR)
    for index, user in enumerate(users):
        if user.history.item_ids:
            numbers[index, :, OWN_ITEMS] = own_items(user.history, user.now_ms, rows[index], table)
        if user.statistics:
            numbers[index, :, STATISTICS] = user.statistics.numbers(user.history, user.now_ms, rows[index], table)
    numbers[..., PRICE] = read_prices(rows, table)
    ages_days = (now_ms[:, None] - table.listed_ms[candidates].cpu().numpy()) / DAY_MS
    numbers[..., AGE_DAYS] = np.where(rows > 0, ages_days, np.nan)
    return torch.from_numpy(numbers)
