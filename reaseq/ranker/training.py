"""Training of the ranker on baskets: each item of a basket against items on sale that are not in it.

Negatives were listed before the basket. They are drawn uniformly, in proportion to recent popularity, and from the items that
the user acted on before: the hard ones. Sampled softmax corrects for how often each one is drawn (log Q). Inferred behaviors
are never positives.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reaseq.aggregates import LoggedAggregates
from reaseq.behavior import calibration
from reaseq.behavior.examples import Basket
from reaseq.days import DAY_MS
from reaseq.errors import CatalogError
from reaseq.ranker.batch import RankedUser, build_batch
from reaseq.ranker.item_statistics import ItemStatistics
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import Embedded, Ranker, RankerBatch, RankerConfig
from reaseq.ranker.numbers import POPULARITY
from reaseq.records import Inferred
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds
from reaseq.training_loop import Curve, Progress, fit, training_device

SCORING_BATCH = 64
NUMBERS_SAMPLE = 200_000  # candidates whose numbers set the bins
POPULAR_FLOOR = 0.01  # popularity of items without recent events, so that they can be drawn


@dataclass(frozen=True)
class RankerTrainingConfig:
    """Hyperparameters of training, chosen on the two weeks of Online Retail before the demo's replay."""

    epochs: int = 1
    batch_baskets: int = 16
    positives: int = 24
    uniform_negatives: int = 56
    popular_negatives: int = 56
    own_negatives: int = 40  # items of the user's history
    learning_rate: float = 4e-3
    catch_up_learning_rate: float = 2e-3  # on the latest baskets, see `catch_up`
    weight_decay: float = 0.01
    seed: int = 0

    @property
    def negatives(self) -> int:
        """Negatives of each basket."""
        return self.uniform_negatives + self.popular_negatives + self.own_negatives


@dataclass(frozen=True)
class RankerSample:
    """A basket, what had been inferred for its user before it, and statistics of the log before it."""

    basket: Basket
    inferred: Inferred
    statistics: ItemStatistics | None = None


@dataclass(frozen=True)
class RankerExamples:
    """B baskets with C candidates each: P positives, padded if there are fewer, then the negatives."""

    batch: RankerBatch
    positives: Tensor  # (B, P) bool, False is padding
    negatives: Tensor  # (B, C - P) bool, False is padding
    log_q: Tensor  # (B, C - P) log of how often each negative is drawn on average
    weights: Tensor  # (B, C) how many items each candidate stands for when probabilities are calibrated

    def __getitem__(self, index: Tensor | slice) -> "RankerExamples":
        parts = (self.positives[index], self.negatives[index], self.log_q[index], self.weights[index])
        return RankerExamples(self.batch[index], *parts)

    def __len__(self) -> int:
        return len(self.positives)

    def to(self, device: torch.device) -> "RankerExamples":
        """A copy on a device."""
        parts = (part.to(device) for part in (self.positives, self.negatives, self.log_q, self.weights))
        return RankerExamples(self.batch.to(device), *parts)

    @property
    def labels(self) -> Tensor:
        """Which candidates are positives (B, C) bool."""
        return torch.cat([self.positives, torch.zeros_like(self.negatives)], dim=1)


def build_examples(
    samples: Sequence[RankerSample],
    aggregates: LoggedAggregates,
    table: Snapshot,
    latents: LatentModels | None,
    sizes: RankerConfig,
    config: RankerTrainingConfig,
) -> RankerExamples:
    """Examples of samples in order of time; `latents` score candidates if `sizes` has scores.

    `aggregates` are those of the log, by row of the table; a basket's popularity counts the events strictly before it.
    Baskets without an item that was listed before them, or without negatives, are left out. Raises CatalogError if none
    remains.
    """
    sampler = _CandidateSampler(table, aggregates, config)
    drawn, usable = [], []
    for sample in samples:
        if candidates := sampler.draw(sample.basket):
            drawn.append(candidates)
            usable.append(sample)
    if not drawn:
        raise CatalogError(
            f"none of {len(samples)} baskets has both an item that was on sale before it and other items to compare it with"
        )
    rows, positives, negatives, log_q, weights = (torch.from_numpy(np.stack(column)) for column in zip(*drawn, strict=True))
    counts = aggregates.evaluate(rows.numpy(), np.array([[sample.basket.time_ms] for sample in usable]))
    users = [RankedUser(sample.basket.history, sample.inferred, sample.basket.time_ms, sample.statistics) for sample in usable]
    scores = latent_scores([sample.inferred for sample in usable], rows, table, latents, sizes)
    batch = build_batch(users, rows, counts, scores, table, sizes)
    return RankerExamples(batch, positives, negatives, log_q, weights)


def latent_scores(
    inferred: Sequence[Inferred], candidates: Tensor, table: Snapshot, latents: LatentModels | None, sizes: RankerConfig
) -> Tensor:
    """Scores (B, C, sizes.scores) by users' latent states, each read by the model version that wrote it."""
    if not sizes.scores or not latents:
        return torch.zeros(*candidates.shape, 0)
    for version in sorted({behaviors.model for behaviors in inferred if behaviors.latent}):
        latents.load(version)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inferred), SCORING_BATCH):
            part = slice(start, start + SCORING_BATCH)
            parts.append(latents.scores(list(inferred[part]), candidates[part], table)[0])
    return torch.cat(parts).clone()


class _Drawn(NamedTuple):
    """The candidates of one basket, as in `RankerExamples`."""

    rows: NDArray[np.int64]  # (C,)
    positives: NDArray[np.bool_]  # (P,)
    negatives: NDArray[np.bool_]  # (C - P,)
    log_q: NDArray[np.float32]  # (C - P,)
    weights: NDArray[np.float32]  # (C,)


class _CandidateSampler:
    """Draws the positives and negatives of each basket."""

    def __init__(self, table: Snapshot, aggregates: LoggedAggregates, config: RankerTrainingConfig) -> None:
        self._table, self._config, self._generator = table, config, np.random.default_rng(config.seed)
        self._aggregates, self._day, self._popularity = aggregates, -1, np.zeros(len(table), np.float32)
        # Listing time of each row; items that are not on sale never count as listed.
        self._listed_ms = np.where(table.live.numpy(), table.listed_ms.numpy(), np.iinfo(np.int64).max)
        on_sale = np.flatnonzero(table.live.numpy())
        self._on_sale = on_sale[np.argsort(self._listed_ms[on_sale], kind="stable")]
        self._times_ms = self._listed_ms[self._on_sale]

    def draw(self, basket: Basket) -> _Drawn | None:
        """The candidates of a basket; None if no item of the basket, or no other item, was listed before it."""
        config, generator = self._config, self._generator
        basket_rows = np.unique(self._table.rows(basket.item_ids).numpy())
        all_positives = basket_rows[self._listed_ms[basket_rows] < basket.time_ms]
        positives = generator.permutation(all_positives)[: config.positives]
        others = np.ones(len(self._listed_ms), bool)
        others[basket_rows] = False
        available = self._on_sale[: np.searchsorted(self._times_ms, basket.time_ms)]
        available = available[others[available]]
        if not len(positives) or not len(available):
            return None
        share = self._popularity_on(basket.time_ms // DAY_MS)[available] + POPULAR_FLOOR
        share = share / share.sum()
        is_own = np.isin(available, self._table.rows(basket.history.item_ids).numpy())
        own = generator.permutation(available[is_own])[: config.own_negatives]
        drawn = np.full(len(others), np.nan)  # how often each row is drawn on average
        drawn[available] = config.uniform_negatives / len(available) + config.popular_negatives * share
        drawn[available[is_own]] += len(own) / max(1, is_own.sum())

        rows = np.zeros(config.positives + config.negatives, np.int64)
        rows[: len(positives)] = positives
        uniform = slice(config.positives, config.positives + config.uniform_negatives)
        popular = slice(uniform.stop, uniform.stop + config.popular_negatives)
        rows[uniform] = generator.choice(available, config.uniform_negatives)
        rows[popular] = generator.choice(available, config.popular_negatives, p=share)
        rows[popular.stop : popular.stop + len(own)] = own
        is_negative = rows[config.positives :] > 0
        log_q = np.log(np.where(is_negative, drawn[rows[config.positives :]], 1.0))
        weights = np.zeros(len(rows), np.float32)
        weights[: len(positives)] = len(all_positives) / max(1, len(positives))
        weights[uniform] = len(available) / config.uniform_negatives
        is_positive = np.arange(config.positives) < len(positives)
        return _Drawn(rows, is_positive, is_negative, log_q.astype(np.float32), weights)

    def _popularity_on(self, day: int) -> NDArray[np.float32]:
        """The popularity of all rows (N,) when a day began: it changes little in a day, and log Q knows what was drawn."""
        if day != self._day:
            every = np.arange(len(self._table))
            self._day, self._popularity = day, self._aggregates.evaluate(every, day * DAY_MS)[:, POPULARITY][:, -1]
        return self._popularity


class RankerLossModule(nn.Module):
    """The ranker's loss on a batch, as a module that distributed training can wrap."""

    def __init__(self, model: Ranker, examples: RankerExamples, table: Snapshot, ids: TrainedIds, device: torch.device) -> None:
        super().__init__()
        self.model = model.to(device)
        self._examples, self._device = examples, device
        self._table = table.to(device)
        self._numbers = ids.number_rows(table, table.rows_of_slots).to(device)

    def forward(self, index: Tensor) -> Tensor:
        """The loss of the examples with indices (B,)."""
        examples = self._examples[index].to(self._device)
        return sampled_softmax(self.model(examples.batch, self.items()), examples)

    def items(self) -> Embedded:
        """The table, embedded by the model's current weights."""
        return embedded(self.model, self._table, self._numbers)


def embedded(model: Ranker, table: Snapshot, numbers: Tensor) -> Embedded:
    """A whole table, embedded by a model; `numbers` (S,) are the trained ids of its slots."""
    return Embedded(table.slots, table.contents, *model.embed(table.contents, numbers))


def train(
    examples: RankerExamples,
    held_out: RankerExamples | None,
    table: Snapshot,
    ids: TrainedIds,
    sizes: RankerConfig,
    config: RankerTrainingConfig,
    checkpoint: Path | None = None,
    progress: Progress = lambda steps, loss: None,
) -> tuple[Ranker, Curve]:
    """A ranker trained by the sampled softmax of each positive against its basket's negatives, and the learning curve.

    The probabilities are calibrated on the held-out examples, if any. For `checkpoint` and `progress` see
    `reaseq.training_loop.fit`.
    """
    torch.manual_seed(config.seed)
    model = Ranker(sizes)
    model.claim_rates.copy_(label_rates(table, table.contents.claims, sizes.claims))
    if sizes.codes > 1:
        model.code_rates.copy_(label_rates(table, model.codes_of(table.contents), sizes.codes))
    model.number_encoding.fit(_sample_numbers(examples))
    loss_module = RankerLossModule(model, examples, table, ids, training_device())
    held_out_loss = partial(_held_out_loss, loss_module, held_out)
    curve = fit(model, loss_module, len(examples), config, held_out_loss, checkpoint, progress)
    model.eval()
    if held_out is not None and len(held_out):
        weighted = held_out.weights > 0
        p = torch.sigmoid(score(loss_module, held_out))[weighted]
        model.calibration.copy_(calibration.fit(p, held_out.labels[weighted], held_out.weights[weighted]))
    return model.cpu(), curve


def catch_up(model: Ranker, latest: RankerExamples, table: Snapshot, ids: TrainedIds, config: RankerTrainingConfig) -> None:
    """Train a model, once it is measured and calibrated, on the latest baskets, the held-out ones among them.

    They are the most like those to come, so leaving them out costs more than their share. The calibration stays.
    """
    training = replace(config, epochs=1, learning_rate=config.catch_up_learning_rate)
    fit(model, RankerLossModule(model, latest, table, ids, training_device()), len(latest), training, lambda: math.nan)
    model.eval().cpu()


def score(loss_module: RankerLossModule, examples: RankerExamples) -> Tensor:
    """Scores (B, C) of examples, on the CPU."""
    device = training_device()
    loss_module.eval()
    with torch.inference_mode():
        items = loss_module.items()
        parts = torch.split(torch.arange(len(examples)), SCORING_BATCH)
        return torch.cat([loss_module.model(examples.batch[part].to(device), items).float().cpu() for part in parts])


def sampled_softmax(scores: Tensor, examples: RankerExamples) -> Tensor:
    """Mean over positives p of −log( e^p / (e^p + Σ e^n / q_n) ) = softplus( logΣe^(n − log q_n) − p ); scores (B, C).

    With q_n the mean number of draws of negative n, the sum estimates the one over all items (Bengio and Senécal 2008).
    """
    count = examples.positives.shape[1]
    negatives = (scores[:, count:] - examples.log_q).masked_fill(~examples.negatives, -torch.inf)
    log_sum = torch.logsumexp(negatives, dim=-1, keepdim=True)  # (B, 1)
    losses = torch.nn.functional.softplus(log_sum - scores[:, :count])  # (B, P)
    return (losses * examples.positives).sum() / examples.positives.sum().clamp(min=1)


def label_rates(table: Snapshot, labels: Tensor, count: int) -> Tensor:
    """Share of the items on sale with each label (count,), for the labels of slots (S, K)."""
    on_sale = labels[table.slots[table.live]].flatten()
    rates = torch.bincount(on_sale, minlength=count)[:count].float() / max(1, int(table.live.sum()))
    rates[0] = 0  # padding
    return rates if count > 1 else rates.new_zeros(count)


def _sample_numbers(examples: RankerExamples) -> Tensor:
    """The numbers (M, F) of some candidates of every kind."""
    exists = torch.cat([examples.positives, examples.negatives], dim=1)
    numbers = examples.batch.numbers[exists]
    return numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))[:NUMBERS_SAMPLE]]


def _held_out_loss(loss_module: RankerLossModule, held_out: RankerExamples | None) -> float:
    if held_out is None or not len(held_out):
        return math.nan
    return float(sampled_softmax(score(loss_module, held_out), held_out))
