"""Training of the behaviour model on baskets: the history before a basket is the prompt, what was new in it the response."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reaseq.behavior import diffusion
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.sequence import Sequences, sequences_of
from reaseq.optimisation import Optimisation
from reaseq.records import History
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Basket:
    """What a user took at one moment, and the history strictly before it."""

    user_id: str
    time_ms: int
    item_ids: tuple[str, ...]
    history: History


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train."""

    epochs: int = 6
    batch_baskets: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


def train(
    baskets: Sequence[Basket],
    table: Snapshot,
    ids: TrainedIds,
    config: BehaviorConfig,
    plan: TrainingPlan,
    progress: Progress = lambda step, loss: None,
) -> BehaviorModel:
    """A model trained on `baskets`. `progress` hears each finished step and its loss."""
    torch.manual_seed(plan.seed)
    history, response = _examples(baskets, table, config)
    model = BehaviorModel(config)
    steps = steps_of(len(response), plan)
    optimisation = Optimisation(model, plan.learning_rate, plan.weight_decay, steps)
    numbers = ids.of(table)
    model.train()
    for _ in range(plan.epochs):
        for places in torch.split(torch.randperm(len(response)), plan.batch_baskets):
            masked, t = diffusion.mask(response[places])
            loss = diffusion.loss(model, history[places], response[places], model.items(table, numbers), masked, t)
            progress(1, optimisation.step(loss))
    return model.eval()


def steps_of(examples: int, plan: TrainingPlan) -> int:
    """Optimiser steps that training on so many examples takes."""
    return plan.epochs * math.ceil(examples / plan.batch_baskets)


def trainable(baskets: Sequence[Basket]) -> list[Basket]:
    """The baskets that teach something: a history, and something new to the user after it."""
    return [basket for basket in baskets if basket.history.item_ids and new_items(basket)]


def new_items(basket: Basket) -> list[str]:
    """The items of the basket that the user's history does not hold."""
    known = set(basket.history.item_ids)
    return [item_id for item_id in basket.item_ids if item_id not in known]


def _examples(baskets: Sequence[Basket], table: Snapshot, config: BehaviorConfig) -> tuple[Sequences, Tensor]:
    kept = trainable(baskets)
    history = sequences_of([b.history for b in kept], [b.time_ms for b in kept], table, config.history)
    response = torch.full((len(kept), config.response), diffusion.ABSENT)
    for place, basket in enumerate(kept):
        rows = table.rows(new_items(basket))
        rows = rows[torch.randperm(len(rows))][: config.response]
        response[place, : len(rows)] = rows
    return history, response
