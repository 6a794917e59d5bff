"""Training of the behavior model: what it learns from, its loss_module, and what inference needs beside its weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from reaseq.behavior import calibration, diffusion
from reaseq.behavior.diffusion import TO_COME, Sampling, build_slots
from reaseq.behavior.examples import Basket, BehaviorExamples, build_canvas, build_examples, trainable
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.popularity import RecentSales
from reaseq.behavior.token_table import SemanticIdTrie
from reaseq.errors import CatalogError
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds
from reaseq.training_loop import Curve, Progress, device_to_train_on, fit

HELD_OUT_SHARE = 0.05  # of the baskets, the latest ones: to calibrate on
CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class BehaviorTrainingConfig:
    """How long and how fast to train."""

    epochs: int = 6
    batch_baskets: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    infill_share: float = 0.25  # of the rows that have history masked as well, not only what came after
    seed: int = 0


@dataclass(frozen=True)
class BehaviorTrainingData:
    """What is learned from: baskets before the cut, later ones to measure and calibrate on, and the catalog."""

    train: BehaviorExamples
    held_out: BehaviorExamples
    table: Snapshot
    ids: Tensor  # (N,) trained ids of the table's rows
    sales: RecentSales
    tree: SemanticIdTrie | None = None  # semantic IDs, where the model writes with them


def build_training_data(
    baskets: Sequence[Basket],
    table: Snapshot,
    config: BehaviorConfig,
    held_out_share: float = 0.0,
    tree: SemanticIdTrie | None = None,
) -> tuple[BehaviorTrainingData, TrainedIds]:
    """BehaviorTrainingData out of baskets in order of time, of which the last share is held out, and the items that training knows.

    Recent sales are counted over all of the baskets: each example sees those of the days before its own. Raises CatalogError
    where no basket teaches anything.
    """
    cut = round(len(baskets) * (1 - held_out_share))
    known = TrainedIds(sorted({item_id for basket in baskets[:cut] for item_id in basket.item_ids}))
    train, held_out = (
        build_examples(trainable(part), table, config.history, config.response) for part in (baskets[:cut], baskets[cut:])
    )
    if not len(train):
        raise CatalogError(f"of {cut} baskets to learn from, none has a history and holds something new: send a longer log")
    sales = RecentSales.from_baskets(baskets, table)
    return BehaviorTrainingData(train, held_out, table, known.number(table), sales, tree), known


class BehaviorLossModule(nn.Module):
    """The diffusion loss of a batch as a module, which is what distributed training wraps."""

    def __init__(self, model: BehaviorModel, data: BehaviorTrainingData, infill_share: float, device: torch.device) -> None:
        super().__init__()
        self.model = model.to(device)
        self._device = device
        self._table, self._ids = data.table.to(device), data.ids.to(device)
        self._tree = data.tree.to(device) if data.tree else None
        self._sales = data.sales
        self._train = data.train
        self._infill_share = infill_share

    def forward(self, places: Tensor) -> Tensor:
        """The loss of the training examples at places (B,)."""
        return self.loss(self._train[places])

    def loss(self, examples: BehaviorExamples) -> Tensor:
        """The loss, masked anew at every call."""
        prior = self._sales.prior(examples.times_ms).to(self._device)
        examples = examples.to(self._device)
        token_table = self.model.token_table(self._table, self._ids, self._tree)
        history = build_canvas(examples.history, examples.times_ms, token_table, prior)
        batch, length = examples.history.rows.shape
        after = torch.full_like(examples.response, length)
        canvas = history.followed_by(token_table.to_tokens(examples.response), after, torch.full_like(after, TO_COME))
        infill = torch.rand(batch, 1, device=self._device) < self._infill_share
        maskable = torch.cat([infill.expand(batch, length), torch.ones_like(after, dtype=torch.bool)], dim=1)
        t = diffusion.draw_rates(batch, self._device)
        masked = diffusion.mask(canvas.tokens, t, maskable)
        return diffusion.loss(self.model, canvas, masked, t, maskable, token_table)


def train(
    data: BehaviorTrainingData,
    config: BehaviorConfig,
    plan: BehaviorTrainingConfig,
    checkpoint: Path | None = None,
    progress: Progress = lambda steps, loss: None,
    model: BehaviorModel | None = None,
) -> tuple[BehaviorModel, Curve]:
    """A model trained on the data and calibrated on what was held out, and its learning curve.

    For `checkpoint` and `progress` see `reaseq.training_loop.fit`. Training starts from `model`, or from a new one.
    """
    torch.manual_seed(plan.seed)
    model = model or BehaviorModel(config)
    loss_module = BehaviorLossModule(model, data, plan.infill_share, device_to_train_on())
    held_out = partial(held_out_loss, loss_module, data.held_out, plan.seed)
    curve = fit(model, loss_module, len(data.train), plan, held_out, checkpoint, progress)
    model.eval().cpu()
    _finish(model, data)
    return model, curve


def held_out_loss(loss_module: BehaviorLossModule, examples: BehaviorExamples, seed: int) -> float:
    """The loss on examples that are not trained on, under the same masks at every call; NaN of none."""
    if not len(examples):
        return math.nan
    loss_module.eval()
    torch.manual_seed(seed)
    with torch.inference_mode():
        parts = torch.split(torch.arange(len(examples)), CALIBRATION_BATCH)
        return sum(float(loss_module.loss(examples[part])) * len(part) for part in parts) / len(examples)


def _finish(model: BehaviorModel, data: BehaviorTrainingData) -> None:
    """Give the model what inference needs beside weights: what its confidences mean, and recent sales."""
    parts = (data.train, data.held_out)
    cut_ms, end_ms = (1 + max(int(part.times_ms.max()) for part in some if len(part)) for some in (parts[:1], parts))
    if len(data.held_out):
        _take_sales(model, data, cut_ms)
        model.calibration.copy_(calibration.fit(*infer_held_out(model, data, Sampling(steps=1))))
    _take_sales(model, data, end_ms)


def _take_sales(model: BehaviorModel, data: BehaviorTrainingData, time_ms: int) -> None:
    model.sales[data.ids] = data.sales.counts(torch.tensor([time_ms]))[0]
    model.sales[0] = 0  # all that training does not know


def infer_held_out(model: BehaviorModel, data: BehaviorTrainingData, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """What is inferred for the held-out baskets as it would be served: probabilities (M,), and which came true (M,)."""
    found, truth = [], []
    with torch.inference_mode():
        token_table = model.token_table(data.table, data.ids, data.tree)
        prior = torch.log1p(model.sales[data.ids])
        for part in torch.split(torch.arange(len(data.held_out)), CALIBRATION_BATCH):
            examples = data.held_out[part]
            canvas = build_canvas(examples.history, examples.times_ms, token_table, prior.expand(len(part), -1))
            allowed = data.table.live & (data.table.listed_ms <= examples.times_ms[:, None])
            allowed = allowed.scatter(1, examples.history.rows, False)
            slots = build_slots(canvas, sampling.behaviors)
            draw = diffusion.denoise(model, canvas, token_table, allowed, slots, sampling)
            kept = draw.confidences > 0
            hits = (draw.rows.unsqueeze(-1) == examples.response.unsqueeze(1)).any(-1)
            found.append(draw.confidences[kept])
            truth.append(hits[kept])
    return torch.cat(found), torch.cat(truth)
