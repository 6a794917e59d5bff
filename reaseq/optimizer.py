"""The optimizer that every model here is trained with: AdamW, a short warm-up, then a cosine down to nothing."""

import math

import torch
from torch import Tensor, nn

WARM_UP_SHARE = 0.1
GRADIENT_LIMIT = 1.0


class Optimizer:
    """Takes one step for each loss; after `steps` of them the learning rate is zero."""

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float, steps: int) -> None:
        self._named = dict(model.named_parameters())
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
        self._learning_rate = learning_rate
        self._steps = steps
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._factor)

    def step(self, loss: Tensor) -> float:
        """Follow the gradient of `loss`; returns its value."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._named.values(), GRADIENT_LIMIT)
        self._optimizer.step()
        self._schedule.step()
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """What a later run needs to go on: the optimizer's moments of each parameter, by its name."""
        held = self._optimizer.state
        return {f"{name}/{moment}": value for name, p in self._named.items() for moment, value in held[p].items()}

    def restore(self, state: dict[str, Tensor], steps_taken: int) -> None:
        """Go on where `state` was taken."""
        for key, value in state.items():
            name, moment = key.rsplit("/", 1)
            self._optimizer.state[self._named[name]][moment] = value
        self._schedule.last_epoch = steps_taken
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * self._factor(steps_taken)

    def _factor(self, step: int) -> float:
        """What the learning rate is multiplied with."""
        warm_up = max(1, round(WARM_UP_SHARE * self._steps))
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, self._steps - warm_up)))
