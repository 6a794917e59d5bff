"""Training of the behavior model: its data, its loss, and the calibration and recent sales that inference needs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from reaseq.behavior import calibration, diffusion
from reaseq.behavior.diffusion import TO_COME, Canvas, Sampling, build_slots
from reaseq.behavior.examples import Basket, BehaviorExamples, build_canvas, build_examples, trainable
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.popularity import RecentSales
from reaseq.behavior.token_table import SemanticIdTrie, TokenTable
from reaseq.errors import CatalogError
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds
from reaseq.training_loop import Curve, Progress, fit, training_device

HELD_OUT_SHARE = 0.05  # the latest baskets, used for calibration
CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class BehaviorTrainingConfig:
    """Hyperparameters of training."""

    epochs: int = 6
    batch_baskets: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    infill_share: float = 0.25  # share of the rows whose history may be masked too, not only the response
    seed: int = 0


@dataclass(frozen=True)
class BehaviorTrainingData:
    """Training examples from before the cut, later ones to measure and calibrate on, and the catalog."""

    train: BehaviorExamples
    held_out: BehaviorExamples
    table: Snapshot
    ids: Tensor  # (N,) trained ids of the table's rows
    sales: RecentSales
    trie: SemanticIdTrie | None = None  # semantic IDs, if the model uses them


def build_training_data(
    baskets: Sequence[Basket],
    table: Snapshot,
    config: BehaviorConfig,
    held_out_share: float = 0.0,
    trie: SemanticIdTrie | None = None,
) -> tuple[BehaviorTrainingData, TrainedIds]:
    """Training data from baskets in order of time, the last `held_out_share` of them held out, and the trained item ids.

    Recent sales are counted over all baskets; each example sees those of the days before its own. Raises CatalogError if there
    is no basket to learn from.
    """
    cut = round(len(baskets) * (1 - held_out_share))
    ids = TrainedIds(sorted({item_id for basket in baskets[:cut] for item_id in basket.item_ids}))
    train, held_out = (
        build_examples(trainable(part), table, config.history, config.response) for part in (baskets[:cut], baskets[cut:])
    )
    if not len(train):
        raise CatalogError(f"none of the {cut} training baskets has both a history and a new item: provide a longer log")
    sales = RecentSales.from_baskets(baskets, table)
    return BehaviorTrainingData(train, held_out, table, ids.number(table), sales, trie), ids


class BehaviorLossModule(nn.Module):
    """The diffusion loss of a batch, as a module that distributed training can wrap."""

    def __init__(self, model: BehaviorModel, data: BehaviorTrainingData, infill_share: float, device: torch.device) -> None:
        super().__init__()
        self.model = model.to(device)
        self._device = device
        self._table, self._ids = data.table.to(device), data.ids.to(device)
        self._trie = data.trie.to(device) if data.trie else None
        self._sales = data.sales
        self._train = data.train
        self._infill_share = infill_share

    def forward(self, index: Tensor) -> Tensor:
        """The loss of the training examples with indices (B,)."""
        return self.loss(self._train[index])

    def loss(self, examples: BehaviorExamples) -> Tensor:
        """The loss of examples, with new masks at every call."""
        prior = self._sales.prior(examples.times_ms).to(self._device)
        examples = examples.to(self._device)
        token_table = self.model.token_table(self._table, self._ids, self._trie)
        history = build_canvas(examples.history, examples.times_ms, token_table, prior)
        return response_loss(self.model, history, examples.response, token_table, self._infill_share)


def response_loss(
    model: BehaviorModel, history: Canvas, response: Tensor, token_table: TokenTable, infill_share: float
) -> Tensor:
    """The diffusion loss of histories and their responses, rows (B, R), with new masks at every call.

    In an `infill_share` of the histories, behaviors may be masked too.
    """
    batch, length, _ = history.tokens.shape
    after = torch.full_like(response, length)
    canvas = history.followed_by(token_table.to_tokens(response), after, torch.full_like(after, TO_COME))
    infill = torch.rand(batch, 1, device=response.device) < infill_share
    maskable = torch.cat([infill.expand(batch, length), torch.ones_like(after, dtype=torch.bool)], dim=1)
    t = diffusion.draw_rates(canvas.tokens, maskable)
    masked = diffusion.mask(canvas.tokens, t, maskable)
    return diffusion.loss(model, canvas, masked, t, maskable, token_table)


def train(
    data: BehaviorTrainingData,
    sizes: BehaviorConfig,
    config: BehaviorTrainingConfig,
    checkpoint: Path | None = None,
    progress: Progress = lambda steps, loss: None,
    model: BehaviorModel | None = None,
) -> tuple[BehaviorModel, Curve]:
    """A trained model, calibrated on the held-out examples, and its learning curve.

    Training starts from `model`, or from a new one of `sizes`. For `checkpoint` and `progress` see `reaseq.training_loop.fit`.
    """
    torch.manual_seed(config.seed)
    model = model or BehaviorModel(sizes)
    loss_module = BehaviorLossModule(model, data, config.infill_share, training_device())
    held_out = partial(held_out_loss, loss_module, data.held_out, config.seed)
    curve = fit(model, loss_module, len(data.train), config, held_out, checkpoint, progress)
    model.eval().cpu()
    _finish(model, data)
    return model, curve


def held_out_loss(loss_module: BehaviorLossModule, examples: BehaviorExamples, seed: int) -> float:
    """The loss on held-out examples, with the same masks at every call; NaN without examples."""
    if not len(examples):
        return math.nan
    loss_module.eval()
    torch.manual_seed(seed)
    with torch.inference_mode():
        parts = torch.split(torch.arange(len(examples)), CALIBRATION_BATCH)
        return sum(float(loss_module.loss(examples[part])) * len(part) for part in parts) / len(examples)


def _finish(model: BehaviorModel, data: BehaviorTrainingData) -> None:
    """Fill the model's buffers for inference: the calibration and recent sales."""
    parts = (data.train, data.held_out)
    cut_ms, end_ms = (1 + max(int(part.times_ms.max()) for part in seen if len(part)) for seen in (parts[:1], parts))
    if len(data.held_out):
        _set_sales(model, data, cut_ms)
        model.calibration.copy_(calibration.fit(*infer_held_out(model, data, Sampling())))
    _set_sales(model, data, end_ms)


def _set_sales(model: BehaviorModel, data: BehaviorTrainingData, time_ms: int) -> None:
    model.sales[data.ids] = data.sales.counts(torch.tensor([time_ms]))[0]
    model.sales[0] = 0  # shared by all items without a trained id


def infer_held_out(model: BehaviorModel, data: BehaviorTrainingData, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Inference for the held-out baskets as in serving: probabilities (M,) of what was inferred, and which came true (M,)."""
    probabilities, outcomes = [], []
    with torch.inference_mode():
        token_table = model.token_table(data.table, data.ids, data.trie)
        prior = torch.log1p(model.sales[data.ids])
        for part in torch.split(torch.arange(len(data.held_out)), CALIBRATION_BATCH):
            examples = data.held_out[part]
            canvas = build_canvas(examples.history, examples.times_ms, token_table, prior.expand(len(part), -1))
            allowed = data.table.live & (data.table.listed_ms <= examples.times_ms[:, None])
            allowed = allowed.scatter(1, examples.history.rows, False)
            slots = build_slots(canvas, sampling.behaviors)
            draw = diffusion.denoise(model, canvas, token_table, allowed, slots, sampling)
            inferred = draw.confidences > 0
            came_true = (draw.rows.unsqueeze(-1) == examples.response.unsqueeze(1)).any(-1)
            probabilities.append(draw.confidences[inferred])
            outcomes.append(came_true[inferred])
    return torch.cat(probabilities), torch.cat(outcomes)
