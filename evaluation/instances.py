"""Moments at which rankings are judged: a basket about to be filled, and what the user had done strictly before."""

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
    """A basket about to be filled, and what the user had bought by then (rows).

    `targets` are new to the user, `repeats` were bought before; all were listed before the basket.
    """

    basket: Basket
    targets: NDArray[np.int64]
    repeats: NDArray[np.int64]
    bought: NDArray[np.int64]


def build_instances(log: InteractionLog, start_ms: int, end_ms: int) -> list[RankingInstance]:
    """The instances of [start, end) that have a history and a target that is new to the user, in order of time."""
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


def some(instances: list[RankingInstance], limit: int, seed: int) -> list[RankingInstance]:
    """At most so many of the instances, drawn at random, in their order."""
    if len(instances) <= limit:
        return instances
    kept = np.random.default_rng(seed).choice(len(instances), limit, replace=False)
    return [instances[place] for place in sorted(kept)]


def open_to(instances: Sequence[RankingInstance], table: Snapshot) -> Tensor:
    """What each user may be given (B, N): listed before the instance and never bought."""
    times_ms = to_times(instances)
    allowed = table.live & (table.listed_ms < times_ms[:, None])
    for place, instance in enumerate(instances):
        allowed[place, instance.bought] = False
    return allowed


def to_times(instances: Sequence[RankingInstance]) -> Tensor:
    """When the baskets are filled (B,)."""
    return torch.tensor([instance.basket.time_ms for instance in instances])


def aged(instances: Sequence[RankingInstance], age_ms: int) -> list[RankingInstance]:
    """The instances as they look to who knows only what was older than `age_ms`: their histories lack the newest behaviors."""
    return [replace(instance, basket=replace(instance.basket, history=_before(instance, age_ms))) for instance in instances]


def _before(instance: RankingInstance, age_ms: int) -> History:
    history, until_ms = instance.basket.history, instance.basket.time_ms - age_ms
    kept = sum(time_ms < until_ms for time_ms in history.times_ms)  # they are in order of time
    return History(
        item_ids=history.item_ids[:kept],
        types=history.types[:kept],
        times_ms=history.times_ms[:kept],
        event_keys=history.event_keys[:kept],
    )
