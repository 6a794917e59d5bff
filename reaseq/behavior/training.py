"""Training of the behaviour model: resumable, and the same on one process or on several under torchrun."""

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from reaseq.artefacts import write_whole
from reaseq.behavior import calibration, diffusion
from reaseq.behavior.diffusion import TO_COME, Sampling, slots_of
from reaseq.behavior.examples import Basket, Examples, canvas_of, examples_of, trainable
from reaseq.behavior.lexicon import Tree
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.popularity import RecentSales
from reaseq.optimisation import Optimisation
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

Progress = Callable[[int, float], None]

HELD_OUT_SHARE = 0.05  # of the baskets, the latest ones: to calibrate on
CALIBRATION_BATCH = 64
SEED_STRIDE = 1_000_003  # each step draws from a seed of its own, so that a resumed run draws what it would have drawn


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train."""

    epochs: int = 6
    batch_baskets: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    infill_share: float = 0.25  # of the rows that have history masked as well, not only what came after
    seed: int = 0


@dataclass(frozen=True)
class Material:
    """What is learned from: baskets before the cut, later ones to measure and calibrate on, and the catalogue."""

    train: Examples
    held_out: Examples
    table: Snapshot
    ids: Tensor  # (N,) trained ids of the table's rows
    sales: RecentSales
    tree: Tree | None = None  # semantic IDs, where the model writes with them


def material_of(
    baskets: Sequence[Basket],
    table: Snapshot,
    config: BehaviorConfig,
    held_out_share: float = 0.0,
    tree: Tree | None = None,
) -> tuple[Material, TrainedIds]:
    """Material out of baskets in order of time, of which the last share is held out, and the items that training knows.

    Recent sales are counted over all of the baskets: each example sees those of the days before its own.
    """
    cut = round(len(baskets) * (1 - held_out_share))
    known = TrainedIds(sorted({item_id for basket in baskets[:cut] for item_id in basket.item_ids}))
    train, held_out = (
        examples_of(trainable(part), table, config.history, config.response) for part in (baskets[:cut], baskets[cut:])
    )
    sales = RecentSales([(basket.time_ms, item_id) for basket in baskets for item_id in basket.item_ids], table)
    return Material(train, held_out, table, known.of(table), sales, tree), known


@dataclass
class Curve:
    """Loss of each step, and of the held-out baskets after each epoch."""

    train: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)


class Objective(nn.Module):
    """The diffusion loss of a batch as a module, which is what distributed training wraps."""

    def __init__(self, model: BehaviorModel, material: Material, infill_share: float, device: torch.device) -> None:
        super().__init__()
        self.model = model.to(device)
        self._device = device
        self._table, self._ids = material.table.to(device), material.ids.to(device)
        self._tree = material.tree.to(device) if material.tree else None
        self._sales = material.sales
        self._infill_share = infill_share

    def forward(self, examples: Examples) -> Tensor:
        """The loss, masked anew at every call."""
        prior = self._sales.prior(examples.times_ms).to(self._device)
        examples = examples.to(self._device)
        lexicon = self.model.lexicon(self._table, self._ids, self._tree)
        history = canvas_of(examples.history, examples.times_ms, lexicon, prior)
        batch, length = examples.history.rows.shape
        after = torch.full_like(examples.response, length)
        canvas = history.followed_by(lexicon.tokens_of(examples.response), after, torch.full_like(after, TO_COME))
        infill = torch.rand(batch, 1, device=self._device) < self._infill_share
        maskable = torch.cat([infill.expand(batch, length), torch.ones_like(after, dtype=torch.bool)], dim=1)
        t = diffusion.draw_rates(batch, self._device)
        masked = diffusion.mask(canvas.tokens, t, maskable)
        return diffusion.loss(self.model, canvas, masked, t, maskable, lexicon)


def train(
    material: Material,
    config: BehaviorConfig,
    plan: TrainingPlan,
    checkpoint: Path | None = None,
    progress: Progress = lambda steps, loss: None,
    model: BehaviorModel | None = None,
) -> tuple[BehaviorModel, Curve]:
    """A model trained on the material and calibrated on what was held out, and its learning curve.

    With a `checkpoint`, a run that was stopped goes on after its last whole epoch and ends as if it had not been. Under
    torchrun each process takes its share of every batch. `progress` hears finished steps and the loss; `model` is what
    training starts from, a new one where there is none.
    """
    torch.manual_seed(plan.seed)
    rank, world = _rank_and_world()
    device = device_to_train_on()
    model = model or BehaviorModel(config)
    objective = Objective(model, material, plan.infill_share, device)
    parallel: nn.Module = DistributedDataParallel(objective) if world > 1 else objective
    optimisation = Optimisation(model, plan.learning_rate, plan.weight_decay, steps_of(len(material.train), plan))
    curve, first = Curve(), 0
    if checkpoint and checkpoint.exists():
        curve, first = _restore(checkpoint, model, optimisation)
        progress(len(curve.train), curve.train[-1])
    for epoch in range(first, plan.epochs):
        model.train()
        order = torch.randperm(len(material.train), generator=torch.Generator().manual_seed(plan.seed * SEED_STRIDE + epoch))
        for places in torch.split(order, plan.batch_baskets):
            torch.manual_seed((plan.seed * SEED_STRIDE + len(curve.train)) * world + rank)
            with _precision(device):
                loss = parallel(material.train[places[rank::world] if len(places) >= world else places])
            curve.train.append(optimisation.step(loss))
            progress(1, curve.train[-1])
        curve.held_out.append(held_out_loss(objective, material.held_out, plan.seed))
        if checkpoint and rank == 0:
            _save(checkpoint, model, optimisation, curve, epoch + 1)
    model.eval().cpu()
    _finish(model, material)
    return model, curve


def steps_of(examples: int, plan: TrainingPlan) -> int:
    """Optimiser steps that training on so many examples takes."""
    return plan.epochs * math.ceil(examples / plan.batch_baskets)


def held_out_loss(objective: Objective, examples: Examples, seed: int) -> float:
    """The loss on examples that are not trained on, under the same masks at every call; NaN of none."""
    if not len(examples):
        return math.nan
    objective.eval()
    torch.manual_seed(seed)
    with torch.inference_mode():
        parts = torch.split(torch.arange(len(examples)), CALIBRATION_BATCH)
        return sum(float(objective(examples[part])) * len(part) for part in parts) / len(examples)


def join_processes() -> int:
    """Join the processes that torchrun started; returns this one's rank, 0 where there is but one."""
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return _rank_and_world()[0]


def device_to_train_on() -> torch.device:
    """The GPU of this process where there is one."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def _rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _precision(device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _finish(model: BehaviorModel, material: Material) -> None:
    """Give the model what inference needs beside weights: what its confidences mean, and recent sales."""
    parts = (material.train, material.held_out)
    cut_ms, end_ms = (1 + max(int(part.times_ms.max()) for part in some if len(part)) for some in (parts[:1], parts))
    if len(material.held_out):
        _take_sales(model, material, cut_ms)
        model.calibration.copy_(calibration.fit(*infer_held_out(model, material, Sampling(steps=1))))
    _take_sales(model, material, end_ms)


def _take_sales(model: BehaviorModel, material: Material, time_ms: int) -> None:
    model.sales[material.ids] = material.sales.counts(torch.tensor([time_ms]))[0]
    model.sales[0] = 0  # all that training does not know


def infer_held_out(model: BehaviorModel, material: Material, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """What is inferred for the held-out baskets as it would be served: probabilities (M,), and which came true (M,)."""
    found, truth = [], []
    with torch.inference_mode():
        lexicon = model.lexicon(material.table, material.ids, material.tree)
        prior = torch.log1p(model.sales[material.ids])
        for part in torch.split(torch.arange(len(material.held_out)), CALIBRATION_BATCH):
            examples = material.held_out[part]
            canvas = canvas_of(examples.history, examples.times_ms, lexicon, prior.expand(len(part), -1))
            allowed = material.table.live & (material.table.listed_ms <= examples.times_ms[:, None])
            allowed = allowed.scatter(1, examples.history.rows, False)
            slots = slots_of(canvas, sampling.behaviors)
            draw = diffusion.denoise(model, canvas, lexicon, allowed, slots, sampling)
            kept = draw.confidences > 0
            hits = (draw.rows.unsqueeze(-1) == examples.response.unsqueeze(1)).any(-1)
            found.append(draw.confidences[kept])
            truth.append(hits[kept])
    return torch.cat(found), torch.cat(truth)


def _save(checkpoint: Path, model: BehaviorModel, optimisation: Optimisation, curve: Curve, epochs: int) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimiser/{name}": tensor for name, tensor in optimisation.state().items()}
    facts = {"epochs": str(epochs), "curve": json.dumps(asdict(curve))}
    write_whole(checkpoint, save({name: tensor.contiguous() for name, tensor in tensors.items()}, facts))


def _restore(checkpoint: Path, model: BehaviorModel, optimisation: Optimisation) -> tuple[Curve, int]:
    with safe_open(checkpoint, framework="pt") as opened:
        facts = opened.metadata()
    tensors = load_file(checkpoint)
    model.load_state_dict(_under("model/", tensors))
    curve = Curve(**json.loads(facts["curve"]))
    optimisation.restore(_under("optimiser/", tensors), len(curve.train))
    return curve, int(facts["epochs"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
