"""Ranking instances: a basket to predict, and what the user had done strictly before it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.datasets.interaction_log import InteractionLog
from reaseq.behavior.examples import Basket
from reaseq.records import History
from reaseq.representation.item_table import Snapshot


@dataclass(frozen=True)
class RankingInstance:
    """A basket to predict, with item table rows of its targets and of what the user had bought before.

    `targets` are new to the user, `repeats` were bought before. Both were listed before the basket.
    """

    basket: Basket
    targets: NDArray[np.int64]
    repeats: NDArray[np.int64]
    bought: NDArray[np.int64]


def build_instances(log: InteractionLog, start_ms: int, end_ms: int) -> list[RankingInstance]:
    """The instances of [start, end) that have a history and a new target, in order of time."""
    listed_ms = log.table.listed_ms.numpy()
    bought: dict[str, set[int]] = defaultdict(set)
    instances = []
    for basket in log.baskets:
        rows = set(log.table.rows(basket.item_ids).tolist())
        before = bought[basket.user_id]
        if start_ms <= basket.time_ms < end_ms and basket.history.item_ids:
            listed = [row for row in sorted(rows) if row and listed_ms[row] < basket.time_ms]
            targets = np.array([row for row in listed if row not in before], np.int64)
            repeats = np.array([row for row in listed if row in before], np.int64)
            if len(targets):
                instances.append(RankingInstance(basket, targets, repeats, np.array(sorted(before), np.int64)))
        before |= rows
    return instances


def sample_instances(instances: list[RankingInstance], limit: int, seed: int) -> list[RankingInstance]:
    """At most `limit` of the instances, drawn at random and kept in order."""
    if len(instances) <= limit:
        return instances
    kept = np.random.default_rng(seed).choice(len(instances), limit, replace=False)
    return [instances[index] for index in sorted(kept)]


def build_candidate_mask(instances: Sequence[RankingInstance], table: Snapshot) -> Tensor:
    """Which items (B, N) each user may be offered as new: listed before the instance and never bought."""
    times_ms = to_times(instances)
    mask = table.live & (table.listed_ms < times_ms[:, None])
    for row, instance in enumerate(instances):
        mask[row, instance.bought] = False
    return mask


def to_times(instances: Sequence[RankingInstance]) -> Tensor:
    """Times of the baskets (B,), in ms."""
    return torch.tensor([instance.basket.time_ms for instance in instances])


def number_users(instances: Sequence[RankingInstance]) -> NDArray[np.int64]:
    """A number for the user of each instance (B,), the same wherever the user is the same."""
    return np.unique([instance.basket.user_id for instance in instances], return_inverse=True)[1]


def age_instances(instances: Sequence[RankingInstance], age_ms: int) -> list[RankingInstance]:
    """The instances, without the last `age_ms` before the basket in their histories."""
    return [
        replace(instance, basket=replace(instance.basket, history=_cut_history(instance, age_ms))) for instance in instances
    ]


def _cut_history(instance: RankingInstance, age_ms: int) -> History:
    history, until_ms = instance.basket.history, instance.basket.time_ms - age_ms
    kept = sum(time_ms < until_ms for time_ms in history.times_ms)  # histories are in order of time
    return History(
        item_ids=history.item_ids[:kept],
        types=history.types[:kept],
        times_ms=history.times_ms[:kept],
        event_keys=history.event_keys[:kept],
    )
