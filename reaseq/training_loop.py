"""The training loop of every model that is trained at length: resumable, and the same on one process or under torchrun."""

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

from reaseq.artifacts import write_whole
from reaseq.optimizer import Optimizer

Progress = Callable[[int, float], None]

SEED_STRIDE = 1_000_003  # each step draws from a seed of its own, so that a resumed run draws what it would have drawn


class TrainingConfig(Protocol):
    """How long and how fast to train."""

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
    """Loss of each step, and of the held-out baskets after each epoch."""

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
    """Train `model` by `loss_module`, which says the loss of the examples at places (B,); returns the learning curve.

    With a `checkpoint`, a run that was stopped goes on after its last whole epoch and ends as if it had not been. Under
    torchrun each process takes its share of every batch. `held_out` is measured after each epoch; `progress` hears finished
    steps and the loss.
    """
    rank, world = rank_and_world()
    device = device_to_train_on()
    parallel: nn.Module = DistributedDataParallel(loss_module) if world > 1 else loss_module
    optimizer = Optimizer(model, config.learning_rate, config.weight_decay, count_steps(examples, config))
    curve, first = Curve(), 0
    if checkpoint and checkpoint.exists():
        curve, first = _restore(checkpoint, model, optimizer)
        progress(len(curve.train), curve.train[-1])
    for epoch in range(first, config.epochs):
        model.train()
        order = torch.randperm(examples, generator=torch.Generator().manual_seed(config.seed * SEED_STRIDE + epoch))
        for places in torch.split(order, config.batch_baskets):
            torch.manual_seed((config.seed * SEED_STRIDE + len(curve.train)) * world + rank)
            with _precision(device):
                loss = parallel(places[rank::world] if len(places) >= world else places)
            curve.train.append(optimizer.step(loss))
            progress(1, curve.train[-1])
        curve.held_out.append(held_out())
        if checkpoint and rank == 0:
            _save(checkpoint, model, optimizer, curve, epoch + 1)
    return curve


def count_steps(examples: int, config: TrainingConfig) -> int:
    """Optimiser steps that training on so many examples takes."""
    return config.epochs * math.ceil(examples / config.batch_baskets)


def join_processes() -> int:
    """Join the processes that torchrun started; returns this one's rank, 0 where there is but one."""
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return rank_and_world()[0]


def device_to_train_on() -> torch.device:
    """The GPU of this process where there is one."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def rank_and_world() -> tuple[int, int]:
    """This process's rank, and how many processes train."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _precision(device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _save(checkpoint: Path, model: nn.Module, optimizer: Optimizer, curve: Curve, epochs: int) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer.state().items()}
    facts = {"epochs": str(epochs), "curve": json.dumps(asdict(curve))}
    write_whole(checkpoint, save({name: tensor.contiguous() for name, tensor in tensors.items()}, facts))


def _restore(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> tuple[Curve, int]:
    with safe_open(checkpoint, framework="pt") as opened:
        facts = opened.metadata()
    tensors = load_file(checkpoint)
    model.load_state_dict(_under("model/", tensors))
    curve = Curve(**json.loads(facts["curve"]))
    optimizer.restore(_under("optimizer/", tensors), len(curve.train))
    return curve, int(facts["epochs"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
