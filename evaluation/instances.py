"""Moments at which rankings are judged: a basket about to be filled, and what the user had done strictly before."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.datasets.interaction_log import Log
from reaseq.behavior.examples import Basket
from reaseq.records import History
from reaseq.representation.item_table import Snapshot


@dataclass(frozen=True)
class Moment:
    """A basket about to be filled, and what the user had bought by then (rows).

    `targets` are new to the user, `repeats` were bought before; all were listed before the basket.
    """

    basket: Basket
    targets: NDArray[np.int64]
    repeats: NDArray[np.int64]
    bought: NDArray[np.int64]


def build_instances(log: Log, start_ms: int, end_ms: int) -> list[Moment]:
    """The moments of [start, end) that have a history and a target that is new to the user, in order of time."""
    listed_ms = log.table.listed_ms.numpy()
    bought: dict[str, set[int]] = defaultdict(set)
    moments = []
    for basket in log.baskets:
        rows = set(log.table.rows(basket.item_ids).tolist())
        before = bought[basket.user_id]
        if start_ms <= basket.time_ms < end_ms and basket.history.item_ids:
            listed = [row for row in sorted(rows) if row and listed_ms[row] < basket.time_ms]
            targets = np.array([row for row in listed if row not in before], np.int64)
            repeats = np.array([row for row in listed if row in before], np.int64)
            if len(targets):
                moments.append(Moment(basket, targets, repeats, np.array(sorted(before), np.int64)))
        before |= rows
    return moments


def some(moments: list[Moment], limit: int, seed: int) -> list[Moment]:
    """At most so many of the moments, drawn at random, in their order."""
    if len(moments) <= limit:
        return moments
    kept = np.random.default_rng(seed).choice(len(moments), limit, replace=False)
    return [moments[place] for place in sorted(kept)]


def open_to(moments: Sequence[Moment], table: Snapshot) -> Tensor:
    """What each user may be given (B, N): listed before the moment and never bought."""
    times_ms = to_times(moments)
    allowed = table.live & (table.listed_ms < times_ms[:, None])
    for place, moment in enumerate(moments):
        allowed[place, moment.bought] = False
    return allowed


def to_times(moments: Sequence[Moment]) -> Tensor:
    """When the baskets are filled (B,)."""
    return torch.tensor([moment.basket.time_ms for moment in moments])


def aged(moments: Sequence[Moment], age_ms: int) -> list[Moment]:
    """The moments as they look to who knows only what was older than `age_ms`: their histories lack the newest behaviors."""
    return [replace(moment, basket=replace(moment.basket, history=_before(moment, age_ms))) for moment in moments]


def _before(moment: Moment, age_ms: int) -> History:
    history, until_ms = moment.basket.history, moment.basket.time_ms - age_ms
    kept = sum(time_ms < until_ms for time_ms in history.times_ms)  # they are in order of time
    return History(
        item_ids=history.item_ids[:kept],
        types=history.types[:kept],
        times_ms=history.times_ms[:kept],
        event_keys=history.event_keys[:kept],
    )
