"""Training of the ranker on baskets: each item of a basket against items on sale that are not in it.

Negatives were listed before the basket. Half of them are drawn uniformly, half in proportion to recent popularity, so that
popularity alone does not separate positives from negatives. Inferred behaviors are never positives.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reaseq.behavior import calibration
from reaseq.behavior.examples import Basket
from reaseq.errors import CatalogError
from reaseq.ranker.batch import build_batch
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import Embedded, Ranker, RankerBatch, RankerConfig
from reaseq.ranker.popularity import Popularity
from reaseq.records import Inferred
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds
from reaseq.training_loop import Curve, Progress, fit, training_device

SCORING_BATCH = 64
POPULAR_FLOOR = 0.01  # popularity of items without recent events, so that they can be drawn


@dataclass(frozen=True)
class RankerTrainingConfig:
    """Hyperparameters of training. A second epoch overfits on both public data sets; in one epoch, small batches learn most."""

    epochs: int = 1
    batch_baskets: int = 8
    positives: int = 12
    negatives: int = 120
    learning_rate: float = 6e-3
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class RankerSample:
    """A basket and what had been inferred for its user before it."""

    basket: Basket
    inferred: Inferred


@dataclass(frozen=True)
class RankerExamples:
    """B baskets with C candidates each: P positives, padded if there are fewer, then the negatives."""

    batch: RankerBatch
    positives: Tensor  # (B, P) bool, False is padding
    negatives: Tensor  # (B, C - P) bool, False is padding
    weights: Tensor  # (B, C) how many items each candidate stands for when probabilities are calibrated

    def __getitem__(self, index: Tensor) -> "RankerExamples":
        return RankerExamples(self.batch[index], self.positives[index], self.negatives[index], self.weights[index])

    def __len__(self) -> int:
        return len(self.positives)

    def to(self, device: torch.device) -> "RankerExamples":
        """A copy on a device."""
        parts = (self.positives.to(device), self.negatives.to(device), self.weights.to(device))
        return RankerExamples(self.batch.to(device), *parts)

    @property
    def labels(self) -> Tensor:
        """Which candidates are positives (B, C) bool."""
        return torch.cat([self.positives, torch.zeros_like(self.negatives)], dim=1)


def build_examples(
    samples: Sequence[RankerSample],
    events: Iterable[tuple[int, str]],
    table: Snapshot,
    latents: LatentModels,
    sizes: RankerConfig,
    config: RankerTrainingConfig,
) -> RankerExamples:
    """Examples of samples in order of time.

    `events` are (time in ms, item) of the log in order, from its start; a basket's popularity counts those strictly before it.
    Baskets without an item that was listed before them, or without negatives, are left out. Raises CatalogError if none
    remains.
    """
    sampler = _CandidateSampler(table, config)
    popularity, log = Popularity(), iter(events)
    pending = next(log, None)
    drawn, usable = [], []
    for sample in samples:
        before: list[tuple[int, str]] = []
        while pending and pending[0] < sample.basket.time_ms:
            before.append(pending)
            pending = next(log, None)
        if before:
            times_ms, item_ids = zip(*before, strict=True)
            popularity.observe(table.rows(item_ids).numpy(), times_ms)
        if candidates := sampler.draw(sample.basket, popularity):
            drawn.append(candidates)
            usable.append(sample)
    if not drawn:
        raise CatalogError(
            f"none of {len(samples)} baskets has both an item that was on sale before it and other items to compare it with"
        )
    rows, counts, positives, weights = (torch.from_numpy(np.stack(column)) for column in zip(*drawn, strict=True))
    inferred = [sample.inferred for sample in usable]
    batch = build_batch(
        [sample.basket.history for sample in usable],
        inferred,
        rows,
        counts.numpy(),
        [sample.basket.time_ms for sample in usable],
        latent_scores(inferred, rows, table, latents, sizes),
        table,
        sizes,
    )
    negatives = torch.ones(len(usable), config.negatives, dtype=torch.bool)
    return RankerExamples(batch, positives, negatives, weights)


def latent_scores(
    inferred: Sequence[Inferred], candidates: Tensor, table: Snapshot, latents: LatentModels, sizes: RankerConfig
) -> Tensor:
    """Scores (B, C, sizes.scores) by users' latent states, each read by the model version that wrote it."""
    if not sizes.scores:
        return torch.zeros(*candidates.shape, 0)
    for version in sorted({behaviors.model for behaviors in inferred if behaviors.latent}):
        latents.load(version)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inferred), SCORING_BATCH):
            part = slice(start, start + SCORING_BATCH)
            parts.append(latents.scores(list(inferred[part]), candidates[part], table)[0])
    return torch.cat(parts).clone()


class _CandidateSampler:
    """Draws the positives and negatives of each basket."""

    def __init__(self, table: Snapshot, config: RankerTrainingConfig) -> None:
        self._table, self._config, self._generator = table, config, np.random.default_rng(config.seed)
        # Listing time of each row; items that are not on sale never count as listed.
        self._listed_ms = np.where(table.live.numpy(), table.listed_ms.numpy(), np.iinfo(np.int64).max)
        on_sale = np.flatnonzero(table.live.numpy())
        self._on_sale = on_sale[np.argsort(self._listed_ms[on_sale], kind="stable")]
        self._times_ms = self._listed_ms[self._on_sale]

    def draw(
        self, basket: Basket, popularity: Popularity
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]] | None:
        """Candidates' rows (C,), their counts (C, COUNTS), which positives are not padding (P,), and weights (C,).

        None if no item of the basket, or no other item, was listed before it.
        """
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
        uniform = config.negatives // 2
        share = popularity.counts(available, basket.time_ms)[:, -1] + POPULAR_FLOOR
        rows = np.zeros(config.positives + config.negatives, np.int64)
        rows[: len(positives)] = positives
        rows[config.positives : config.positives + uniform] = generator.choice(available, uniform)
        rows[config.positives + uniform :] = generator.choice(available, config.negatives - uniform, p=share / share.sum())
        weights = np.zeros(len(rows), np.float32)
        weights[: len(positives)] = len(all_positives) / max(1, len(positives))
        weights[config.positives : config.positives + uniform] = len(available) / uniform
        is_positive = np.arange(config.positives) < len(positives)
        return rows, popularity.counts(rows, basket.time_ms), is_positive, weights


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
    ids, content_embeddings = model.embed(table.contents, numbers)
    return Embedded(table.slots, table.prices, table.contents, ids, content_embeddings)


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
    model.claim_rates.copy_(_claim_rates(table, sizes.claims))
    loss_module = RankerLossModule(model, examples, table, ids, training_device())
    held_out_loss = partial(_held_out_loss, loss_module, held_out)
    curve = fit(model, loss_module, len(examples), config, held_out_loss, checkpoint, progress)
    model.eval()
    if held_out is not None and len(held_out):
        weighted = held_out.weights > 0
        p = torch.sigmoid(score(loss_module, held_out))[weighted]
        model.calibration.copy_(calibration.fit(p, held_out.labels[weighted], held_out.weights[weighted]))
    return model.cpu(), curve


def score(loss_module: RankerLossModule, examples: RankerExamples) -> Tensor:
    """Scores (B, C) of examples, on the CPU."""
    device = training_device()
    loss_module.eval()
    with torch.inference_mode():
        items = loss_module.items()
        parts = torch.split(torch.arange(len(examples)), SCORING_BATCH)
        return torch.cat([loss_module.model(examples.batch[part].to(device), items).float().cpu() for part in parts])


def sampled_softmax(scores: Tensor, examples: RankerExamples) -> Tensor:
    """Mean over positives p of −log( e^p / (e^p + Σ e^n) ) = softplus( logΣe^n − p ); scores (B, C)."""
    count = examples.positives.shape[1]
    negatives = scores[:, count:].masked_fill(~examples.negatives, -torch.inf)
    log_sum = torch.logsumexp(negatives, dim=-1, keepdim=True)  # (B, 1)
    losses = torch.nn.functional.softplus(log_sum - scores[:, :count])  # (B, P)
    return (losses * examples.positives).sum() / examples.positives.sum().clamp(min=1)


def _claim_rates(table: Snapshot, claims: int) -> Tensor:
    """Share of the items on sale with each claim (claims,)."""
    claim_ids = table.contents.claims[table.slots[table.live]].flatten()
    rates = torch.bincount(claim_ids, minlength=claims)[:claims].float() / max(1, int(table.live.sum()))
    rates[0] = 0  # padding
    return rates if claims > 1 else rates.new_zeros(claims)


def _held_out_loss(loss_module: RankerLossModule, held_out: RankerExamples | None) -> float:
    if held_out is None or not len(held_out):
        return math.nan
    return float(sampled_softmax(score(loss_module, held_out), held_out))
