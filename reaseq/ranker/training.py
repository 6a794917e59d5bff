"""Training of the ranker on baskets: each item taken against items that were on sale and were not.

Negatives are of what was listed before the basket and is not in it: half drawn evenly, half by how often it was taken lately,
so that popularity alone does not tell the two sides apart. Inferred behaviors never are positives.
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
from reaseq.training_loop import Curve, Progress, device_to_train_on, fit

SCORING_BATCH = 64
POPULAR_FLOOR = 0.01  # of what has not been taken lately, so that it is drawn at all


@dataclass(frozen=True)
class RankerTrainingConfig:
    """How long and how fast to train. A second epoch overfits on both public data sets; small batches learn most in one."""

    epochs: int = 1
    batch_baskets: int = 8
    positives: int = 12
    negatives: int = 120
    learning_rate: float = 6e-3
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class RankerSample:
    """A basket with what was inferred for its user before it."""

    basket: Basket
    inferred: Inferred


@dataclass(frozen=True)
class RankerExamples:
    """Requests of P positives followed by negatives; of fewer, the rest of the places is padding."""

    batch: RankerBatch
    positives: Tensor  # (B, P) bool
    negatives: Tensor  # (B, C - P) bool
    weights: Tensor  # (B, C) what each candidate stands for where probabilities are measured

    def __getitem__(self, places: Tensor) -> "RankerExamples":
        return RankerExamples(self.batch[places], self.positives[places], self.negatives[places], self.weights[places])

    def __len__(self) -> int:
        return len(self.positives)

    def to(self, device: torch.device) -> "RankerExamples":
        """The same on a device."""
        parts = (self.positives.to(device), self.negatives.to(device), self.weights.to(device))
        return RankerExamples(self.batch.to(device), *parts)

    @property
    def taken(self) -> Tensor:
        """Which candidates were taken (B, C) bool."""
        return torch.cat([self.positives, torch.zeros_like(self.negatives)], dim=1)


def build_examples(
    samples: Sequence[RankerSample],
    events: Iterable[tuple[int, str]],
    table: Snapshot,
    latents: LatentModels,
    config: RankerConfig,
    plan: RankerTrainingConfig,
) -> RankerExamples:
    """RankerExamples of samples in order of time. `events` are (time in ms, item) of the log, from its start: popularity at each
    basket counts those strictly before it. A basket that held nothing which was listed before it teaches nothing, and is left
    out. Raises CatalogError where none remains.
    """
    generator = np.random.default_rng(plan.seed)
    lists = _Lists(table, plan, generator)
    popularity, log = Popularity(), iter(events)
    pending = next(log, None)
    drawn, told = [], []
    for sample in samples:
        before: list[tuple[int, str]] = []
        while pending and pending[0] < sample.basket.time_ms:
            before.append(pending)
            pending = next(log, None)
        if before:
            times_ms, item_ids = zip(*before, strict=True)
            popularity.observe(table.rows(item_ids).numpy(), times_ms)
        if found := lists.draw(sample.basket, popularity):
            drawn.append(found)
            told.append(sample)
    if not drawn:
        raise CatalogError(f"none of {len(samples)} baskets holds an item that was on sale before it beside others")
    rows, counts, real, weights = (np.stack(column) for column in zip(*drawn, strict=True))
    candidates = torch.from_numpy(rows)
    inferred = [sample.inferred for sample in told]
    batch = build_batch(
        [sample.basket.history for sample in told],
        inferred,
        candidates,
        counts,
        [sample.basket.time_ms for sample in told],
        latent_scores(inferred, candidates, table, latents, config),
        table,
        config,
    )
    negatives = torch.ones(len(told), plan.negatives, dtype=torch.bool)
    return RankerExamples(batch, torch.from_numpy(real), negatives, torch.from_numpy(weights))


def latent_scores(
    inferred: Sequence[Inferred], candidates: Tensor, table: Snapshot, latents: LatentModels, config: RankerConfig
) -> Tensor:
    """Scores (B, C, config.scores) out of users' latent states, in the model version of each."""
    if not config.scores:
        return torch.zeros(*candidates.shape, 0)
    for version in sorted({of.model for of in inferred if of.latent}):
        latents.load(version)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inferred), SCORING_BATCH):
            part = slice(start, start + SCORING_BATCH)
            parts.append(latents.scores(list(inferred[part]), candidates[part], table)[0])
    return torch.cat(parts).clone()


class _Lists:
    """Draws what each basket's items compete with."""

    def __init__(self, table: Snapshot, plan: RankerTrainingConfig, generator: np.random.Generator) -> None:
        self._table, self._plan, self._generator = table, plan, generator
        # When each row was listed; of what is not on sale, never.
        self._listed_ms = np.where(table.live.numpy(), table.listed_ms.numpy(), np.iinfo(np.int64).max)
        on_sale = np.flatnonzero(table.live.numpy())
        self._on_sale = on_sale[np.argsort(self._listed_ms[on_sale], kind="stable")]
        self._times_ms = self._listed_ms[self._on_sale]

    def draw(
        self, basket: Basket, popularity: Popularity
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]] | None:
        """Candidates' rows (C,), their counts (C, COUNTS), which positives are real (P,), and weights (C,).

        None where the basket held nothing that was listed before, or nothing else was.
        """
        plan, generator = self._plan, self._generator
        taken = np.unique(self._table.rows(basket.item_ids).numpy())
        all_positives = taken[self._listed_ms[taken] < basket.time_ms]
        positives = generator.permutation(all_positives)[: plan.positives]
        others = np.ones(len(self._listed_ms), bool)
        others[taken] = False
        available = self._on_sale[: np.searchsorted(self._times_ms, basket.time_ms)]
        available = available[others[available]]
        if not len(positives) or not len(available):
            return None
        evenly = plan.negatives // 2
        share = popularity.counts(available, basket.time_ms)[:, -1] + POPULAR_FLOOR
        rows = np.zeros(plan.positives + plan.negatives, np.int64)
        rows[: len(positives)] = positives
        rows[plan.positives : plan.positives + evenly] = generator.choice(available, evenly)
        rows[plan.positives + evenly :] = generator.choice(available, plan.negatives - evenly, p=share / share.sum())
        weights = np.zeros(len(rows), np.float32)
        weights[: len(positives)] = len(all_positives) / max(1, len(positives))
        weights[plan.positives : plan.positives + evenly] = len(available) / evenly
        real = np.arange(plan.positives) < len(positives)
        return rows, popularity.counts(rows, basket.time_ms), real, weights


class RankerLossModule(nn.Module):
    """The ranker's loss on a batch as a module, which is what distributed training wraps."""

    def __init__(self, model: Ranker, examples: RankerExamples, table: Snapshot, ids: TrainedIds, device: torch.device) -> None:
        super().__init__()
        self.model = model.to(device)
        self._examples, self._device = examples, device
        self._table = table.to(device)
        self._numbers = ids.number_rows(table, table.rows_of_slots).to(device)

    def forward(self, places: Tensor) -> Tensor:
        """The loss of the examples at places (B,)."""
        examples = self._examples[places].to(self._device)
        return sampled_softmax(self.model(examples.batch, self.items()), examples)

    def items(self) -> Embedded:
        """The table as the model sees it now."""
        return embedded(self.model, self._table, self._numbers)


def embedded(model: Ranker, table: Snapshot, numbers: Tensor) -> Embedded:
    """A whole table as the model sees it; `numbers` (S,) are the trained ids of its slots."""
    ids, content_embeddings = model.embed(table.contents, numbers)
    return Embedded(table.slots, table.prices, table.contents, ids, content_embeddings)


def train(
    examples: RankerExamples,
    held_out: RankerExamples | None,
    table: Snapshot,
    ids: TrainedIds,
    config: RankerConfig,
    plan: RankerTrainingConfig,
    checkpoint: Path | None = None,
    progress: Progress = lambda steps, loss: None,
) -> tuple[Ranker, Curve]:
    """A ranker trained by the sampled softmax of each positive against the negatives of its basket, and its curve.

    Its probabilities are calibrated on what was held out, where there is something.
    """
    torch.manual_seed(plan.seed)
    model = Ranker(config)
    model.claim_rates.copy_(_claim_rates(table, config.claims))
    loss_module = RankerLossModule(model, examples, table, ids, device_to_train_on())
    curve = fit(model, loss_module, len(examples), plan, partial(_held_out_loss, loss_module, held_out), checkpoint, progress)
    model.eval()
    if held_out is not None and len(held_out):
        kept = held_out.weights > 0
        p = torch.sigmoid(score(loss_module, held_out))[kept]
        model.calibration.copy_(calibration.fit(p, held_out.taken[kept], held_out.weights[kept]))
    return model.cpu(), curve


def score(loss_module: RankerLossModule, examples: RankerExamples) -> Tensor:
    """Scores (B, C) of examples, on the CPU."""
    device = device_to_train_on()
    loss_module.eval()
    with torch.inference_mode():
        items = loss_module.items()
        parts = torch.split(torch.arange(len(examples)), SCORING_BATCH)
        return torch.cat([loss_module.model(examples.batch[part].to(device), items).float().cpu() for part in parts])


def sampled_softmax(scores: Tensor, examples: RankerExamples) -> Tensor:
    """Mean over positives p of −log( e^p / (e^p + Σ e^n) ) = softplus( logΣe^n − p ); scores (B, C)."""
    count = examples.positives.shape[1]
    rivals = scores[:, count:].masked_fill(~examples.negatives, -torch.inf)
    against = torch.logsumexp(rivals, dim=-1, keepdim=True)  # (B, 1)
    each = torch.nn.functional.softplus(against - scores[:, :count])
    return (each * examples.positives).sum() / examples.positives.sum().clamp(min=1)


def _claim_rates(table: Snapshot, claims: int) -> Tensor:
    """Share of the items on sale that bear each claim (claims,)."""
    borne = table.contents.claims[table.slots[table.live]].flatten()
    rates = torch.bincount(borne, minlength=claims)[:claims].float() / max(1, int(table.live.sum()))
    rates[0] = 0  # padding
    return rates if claims > 1 else rates.new_zeros(claims)


def _held_out_loss(loss_module: RankerLossModule, held_out: RankerExamples | None) -> float:
    return (
        float(sampled_softmax(score(loss_module, held_out), held_out)) if held_out is not None and len(held_out) else math.nan
    )
