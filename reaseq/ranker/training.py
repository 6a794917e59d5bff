"""Training of the ranker on baskets: each item taken against items that were on sale and were not."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reaseq.behavior.examples import Basket
from reaseq.optimisation import Optimisation
from reaseq.ranker.engine import request_of
from reaseq.ranker.model import Ranker, RankerConfig, Request
from reaseq.ranker.popularity import Popularity
from reaseq.records import Inferred
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class RankerPlan:
    """How long and how fast to train."""

    epochs: int = 3
    batch_baskets: int = 32
    positives: int = 12
    negatives: int = 120
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """A basket with what was inferred for its user before it."""

    basket: Basket
    inferred: Inferred


@dataclass(frozen=True)
class Examples:
    """Requests of P positives followed by negatives, and which positives are real (B, P)."""

    request: Request
    positives: Tensor  # (B, P) bool


def examples_of(
    samples: Sequence[Sample],
    events: Iterable[tuple[int, str]],
    table: Snapshot,
    config: RankerConfig,
    plan: RankerPlan,
) -> Examples:
    """Examples in order of time. `events` are (time in ms, item) of the log, from its start: popularity at each basket
    counts those strictly before it. Both sides are of what was listed before the basket; negatives are drawn evenly."""
    generator = np.random.default_rng(plan.seed)
    listed_ms = table.listed_ms.numpy()
    on_sale = np.flatnonzero(table.live.numpy())
    on_sale = on_sale[np.argsort(listed_ms[on_sale], kind="stable")]
    width = plan.positives + plan.negatives
    candidates = np.zeros((len(samples), width), np.int64)
    counts = np.zeros((len(samples), width, 3), np.float32)
    real = np.zeros((len(samples), plan.positives), bool)
    popularity, log = Popularity(), iter(events)
    pending = next(log, None)
    for place, sample in enumerate(samples):
        basket = sample.basket
        while pending and pending[0] < basket.time_ms:
            popularity.observe(int(table.rows([pending[1]])[0]), pending[0])
            pending = next(log, None)
        taken = table.rows(basket.item_ids).numpy()
        available = on_sale[: np.searchsorted(listed_ms[on_sale], basket.time_ms)]
        positives = generator.permutation(np.intersect1d(taken, available))[: plan.positives]
        available = available[~np.isin(available, taken)]
        negatives = generator.choice(available, plan.negatives)
        candidates[place, : len(positives)] = positives
        candidates[place, plan.positives :] = negatives
        real[place, : len(positives)] = True
        counts[place] = popularity.counts(candidates[place])
    request = request_of(
        [sample.basket.history for sample in samples],
        [sample.inferred for sample in samples],
        torch.from_numpy(candidates),
        counts,
        [sample.basket.time_ms for sample in samples],
        table,
        config,
    )
    return Examples(request, torch.from_numpy(real))


def train(
    examples: Examples,
    table: Snapshot,
    ids: TrainedIds,
    config: RankerConfig,
    plan: RankerPlan,
    progress: Progress = lambda step, loss: None,
) -> Ranker:
    """A ranker trained by the sampled softmax of each positive against the negatives of its basket."""
    torch.manual_seed(plan.seed)
    model = Ranker(config)
    steps = steps_of(len(examples.positives), plan)
    optimisation = Optimisation(model, plan.learning_rate, plan.weight_decay, steps)
    numbers = ids.of(table)
    model.train()
    for _ in range(plan.epochs):
        for places in torch.split(torch.randperm(len(examples.positives)), plan.batch_baskets):
            scores = model(examples.request[places], model.embed(table, numbers))  # (B, P + M)
            loss = _loss(scores, examples.positives[places])
            progress(1, optimisation.step(loss))
    return model.eval()


def steps_of(examples: int, plan: RankerPlan) -> int:
    """Optimiser steps that training on so many examples takes."""
    return plan.epochs * math.ceil(examples / plan.batch_baskets)


def _loss(scores: Tensor, positives: Tensor) -> Tensor:
    """Mean over positives p of −log( e^p / (e^p + Σ e^n) ) = softplus( logΣe^n − p ); scores (B, P + M), positives (B, P)."""
    count = positives.shape[1]
    against = torch.logsumexp(scores[:, count:], dim=-1, keepdim=True)  # (B, 1)
    each = torch.nn.functional.softplus(against - scores[:, :count])
    return (each * positives).sum() / positives.sum().clamp(min=1)
