"""The optimizer of every model here: AdamW with a short warm-up, then cosine decay to zero."""

import math

import torch
from torch import Tensor, nn

WARM_UP_SHARE = 0.1
GRADIENT_LIMIT = 1.0


class Optimizer:
    """Takes one step per loss; after `steps` of them the learning rate is zero."""

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float, steps: int) -> None:
        self._parameters = dict(model.named_parameters())
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
        self._learning_rate = learning_rate
        self._steps = steps
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._factor)

    def step(self, loss: Tensor) -> float:
        """Backpropagate `loss` and update the parameters; returns its value."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), GRADIENT_LIMIT)
        self._optimizer.step()
        self._schedule.step()
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """The moments of each parameter as `<parameter>/<moment>`: what a resumed run needs."""
        moments = self._optimizer.state
        return {f"{name}/{moment}": value for name, p in self._parameters.items() for moment, value in moments[p].items()}

    def restore(self, state: dict[str, Tensor], steps_done: int) -> None:
        """Resume from `state`, saved after `steps_done` steps."""
        for key, value in state.items():
            name, moment = key.rsplit("/", 1)
            self._optimizer.state[self._parameters[name]][moment] = value
        self._schedule.last_epoch = steps_done
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * self._factor(steps_done)

    def _factor(self, step: int) -> float:
        """The share of the full learning rate at a step."""
        warm_up = max(1, round(WARM_UP_SHARE * self._steps))
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, self._steps - warm_up)))
