"""Draws candidate sets.

Items that are new to the user are ranked among items that were on sale and that the user never bought:

- `uniform` negatives are drawn with equal probability;
- `popularity_sampled` negatives are drawn in proportion to their sales in the last 30 days;
- `popularity_matched` negatives are drawn for each target from the items that sold about as often in the last 30 days (the same
  power of two), which removes what popularity alone explains.

Repeat purchases are ranked separately (`repeats`): an item bought again, among the other items bought before.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.candidate_sets import (
    POPULARITY_MATCHED,
    POPULARITY_SAMPLED,
    REPEATS,
    TARGETS_LIMIT,
    UNIFORM,
    CandidateSets,
)
from evaluation.instances import RankingInstance, build_candidate_mask, to_times
from reaseq.behavior.popularity import RecentSales
from reaseq.representation.item_table import Snapshot

NEGATIVES = 60  # of each kind whose negatives are the same for all targets of a set
MATCHED_NEGATIVES = 20  # for each target
TRAINING_NEGATIVES = 2 * NEGATIVES
SALES_FLOOR = 0.01  # added to sales, so that items without any are drawn too
CHUNK = 256


def sample_new_item_sets(instances: Sequence[RankingInstance], table: Snapshot, sales: RecentSales, seed: int) -> CandidateSets:
    """Candidate sets of items new to the user, with negatives that the user never bought."""
    generator = np.random.default_rng(seed)
    matched_start = TARGETS_LIMIT + TRAINING_NEGATIVES
    width = matched_start + TARGETS_LIMIT * MATCHED_NEGATIVES
    rows = np.zeros((len(instances), width), np.int64)
    mask = np.zeros((len(instances), width), bool)
    for start in range(0, len(instances), CHUNK):
        chunk = instances[start : start + CHUNK]
        allowed = build_candidate_mask(chunk, table).numpy()
        counts = sales.counts(to_times(chunk)).numpy()
        for index, (instance, open_rows, sold) in enumerate(zip(chunk, allowed, counts, strict=True), start=start):
            open_rows[instance.targets] = False
            _draw(rows[index], mask[index], instance, np.flatnonzero(open_rows), sold, generator)
    columns = {
        UNIFORM: torch.arange(TARGETS_LIMIT, TARGETS_LIMIT + NEGATIVES).expand(TARGETS_LIMIT, -1),
        POPULARITY_SAMPLED: torch.arange(TARGETS_LIMIT + NEGATIVES, matched_start).expand(TARGETS_LIMIT, -1),
        POPULARITY_MATCHED: torch.arange(matched_start, width).view(TARGETS_LIMIT, MATCHED_NEGATIVES),
    }
    exists = torch.from_numpy(mask)
    return CandidateSets(torch.from_numpy(rows), exists, _mask_columns(columns, exists), TRAINING_NEGATIVES)


def sample_repeat_sets(
    instances: Sequence[RankingInstance], table: Snapshot, seed: int
) -> tuple[list[RankingInstance], CandidateSets]:
    """The instances with a repeat and another item bought before, and their candidate sets.

    Items never bought fill up the sets. They are only for training: repeats are not ranked among them.
    """
    generator = np.random.default_rng(seed)
    chosen = [instance for instance in instances if len(instance.repeats) and len(instance.bought) > len(instance.repeats)]
    width = TARGETS_LIMIT + TRAINING_NEGATIVES
    rows = np.zeros((len(chosen), width), np.int64)
    mask = np.zeros((len(chosen), width), bool)
    for start in range(0, len(chosen), CHUNK):
        chunk = chosen[start : start + CHUNK]
        allowed = build_candidate_mask(chunk, table).numpy()
        for index, (instance, open_rows) in enumerate(zip(chunk, allowed, strict=True), start=start):
            others = np.setdiff1d(instance.bought, instance.repeats)
            _fill(rows[index], mask[index], 0, generator.permutation(instance.repeats)[:TARGETS_LIMIT])
            negatives = generator.permutation(others)[:NEGATIVES]
            open_rows[instance.targets] = False
            filling = generator.choice(np.flatnonzero(open_rows), TRAINING_NEGATIVES - len(negatives))
            _fill(rows[index], mask[index], TARGETS_LIMIT, negatives)
            _fill(rows[index], mask[index], TARGETS_LIMIT + len(negatives), filling)
    exists = torch.from_numpy(mask)
    columns = {REPEATS: torch.arange(TARGETS_LIMIT, TARGETS_LIMIT + NEGATIVES).expand(TARGETS_LIMIT, -1)}
    repeats = _mask_columns(columns, exists)[REPEATS]
    bought = torch.tensor([min(NEGATIVES, len(instance.bought) - len(instance.repeats)) for instance in chosen])
    filling_columns = torch.arange(NEGATIVES) >= bought[:, None]  # (n, NEGATIVES)
    repeats = repeats.masked_fill(filling_columns.unsqueeze(1), -1)
    return chosen, CandidateSets(torch.from_numpy(rows), exists, {REPEATS: repeats}, TRAINING_NEGATIVES)


def _draw(
    rows: NDArray[np.int64],
    mask: NDArray[np.bool_],
    instance: RankingInstance,
    others: NDArray[np.int64],
    sold: NDArray[np.float32],
    generator: np.random.Generator,
) -> None:
    """Fill one set in place: targets, then the negatives of each kind from `others`."""
    targets = generator.permutation(instance.targets)[:TARGETS_LIMIT]
    share = sold[others] + SALES_FLOOR
    _fill(rows, mask, 0, targets)
    _fill(rows, mask, TARGETS_LIMIT, generator.choice(others, NEGATIVES))
    _fill(rows, mask, TARGETS_LIMIT + NEGATIVES, generator.choice(others, NEGATIVES, p=share / share.sum()))
    buckets = np.log2(sold + 1).astype(np.int64)
    for index, target in enumerate(targets):
        matching = others[buckets[others] == buckets[target]]
        if len(matching):
            start = TARGETS_LIMIT + TRAINING_NEGATIVES + index * MATCHED_NEGATIVES
            _fill(rows, mask, start, generator.choice(matching, MATCHED_NEGATIVES))


def _fill(rows: NDArray[np.int64], mask: NDArray[np.bool_], start: int, values: NDArray[np.int64]) -> None:
    rows[start : start + len(values)] = values
    mask[start : start + len(values)] = True


def _mask_columns(columns: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Columns by kind (TARGETS_LIMIT, M) for each of n sets (n, TARGETS_LIMIT, M), -1 where the set has padding."""
    masked = {}
    for kind, kind_columns in columns.items():
        wide = kind_columns.expand(len(mask), *kind_columns.shape)
        masked[kind] = torch.where(mask.gather(1, wide.flatten(1)).view(wide.shape), wide, -1)
    return masked
