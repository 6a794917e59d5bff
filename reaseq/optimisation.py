"""The optimiser that every model here is trained with: AdamW, a short warm-up, then a cosine down to nothing."""

import math

import torch
from torch import Tensor, nn

WARM_UP_SHARE = 0.1
GRADIENT_LIMIT = 1.0


class Optimisation:
    """Takes one step for each loss; after `steps` of them the learning rate is zero."""

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float, steps: int) -> None:
        self._model = model
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
        warm_up = max(1, round(WARM_UP_SHARE * steps))

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)

    def step(self, loss: Tensor) -> float:
        """Follow the gradient of `loss`; returns its value."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), GRADIENT_LIMIT)
        self._optimizer.step()
        self._schedule.step()
        return float(loss.detach())
