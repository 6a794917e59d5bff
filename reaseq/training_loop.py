"""The training loop of the behavior model and the ranker: resumable, and the same on one process or under torchrun."""

import json
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from reaseq.artifacts import write_atomically
from reaseq.optimizer import Optimizer

Progress = Callable[[int, float], None]  # called with the steps finished since the last call, and the latest loss

SEED_STRIDE = 1_000_003  # each step has its own seed, so that a resumed run draws the same numbers as an uninterrupted one


class TrainingConfig(Protocol):
    """What the loop needs of a model's training configuration."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_baskets(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass
class Curve:
    """The loss of each step, and the loss on the held-out baskets after each epoch."""

    train: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)


def fit(
    model: nn.Module,
    loss_module: nn.Module,
    examples: int,
    config: TrainingConfig,
    held_out: Callable[[], float],
    checkpoint: Path | None = None,
    progress: Progress = lambda steps, loss: None,
) -> Curve:
    """Train `model` and return the learning curve; `loss_module` maps indices of examples (B,) to their loss.

    `held_out` is called after each epoch. With a `checkpoint`, a stopped run resumes after its last whole epoch and ends with
    the same result. Under torchrun each process takes its share of every batch.
    """
    rank, world = rank_and_world()
    device = training_device()
    parallel: nn.Module = DistributedDataParallel(loss_module) if world > 1 else loss_module
    optimizer = Optimizer(model, config.learning_rate, config.weight_decay, count_steps(examples, config))
    curve, first = Curve(), 0
    if checkpoint and checkpoint.exists():
        curve, first = _restore(checkpoint, model, optimizer)
        progress(len(curve.train), curve.train[-1])
    for epoch in range(first, config.epochs):
        model.train()
        order = torch.randperm(examples, generator=torch.Generator().manual_seed(config.seed * SEED_STRIDE + epoch))
        for batch in torch.split(order, config.batch_baskets):
            torch.manual_seed((config.seed * SEED_STRIDE + len(curve.train)) * world + rank)
            with _precision(device):
                loss = parallel(batch[rank::world] if len(batch) >= world else batch)
            curve.train.append(optimizer.step(loss))
            progress(1, curve.train[-1])
        curve.held_out.append(held_out())
        if checkpoint and rank == 0:
            _save(checkpoint, model, optimizer, curve, epoch + 1)
    return curve


def count_steps(examples: int, config: TrainingConfig) -> int:
    """The number of optimizer steps that training takes."""
    return config.epochs * math.ceil(examples / config.batch_baskets)


def join_processes() -> int:
    """Join the process group that torchrun started, if any; returns this process's rank, 0 without one."""
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return rank_and_world()[0]


def training_device() -> torch.device:
    """This process's GPU, or the CPU if there is none."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of training processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _precision(device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _save(checkpoint: Path, model: nn.Module, optimizer: Optimizer, curve: Curve, epochs: int) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer.state().items()}
    facts = {"epochs": str(epochs), "curve": json.dumps(asdict(curve))}
    write_atomically(checkpoint, save({name: tensor.contiguous() for name, tensor in tensors.items()}, facts))


def _restore(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> tuple[Curve, int]:
    with safe_open(checkpoint, framework="pt") as opened:
        facts = opened.metadata()
    tensors = load_file(checkpoint)
    model.load_state_dict(_strip_prefix("model/", tensors))
    curve = Curve(**json.loads(facts["curve"]))
    optimizer.restore(_strip_prefix("optimizer/", tensors), len(curve.train))
    return curve, int(facts["epochs"])


def _strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
