"""Confidences that mean something: from the sampler's probability to the share of such inferences that came true.

Platt scaling (Platt 1999) on the log-odds of the probability, fitted on baskets after the ones trained on. His smoothed
targets, and a pull of the slope towards 1, keep it sober where few of them, or none, came true.
"""

import torch
from torch import Tensor

LEAST, MOST = 1e-6, 1 - 1e-6
SLOPE_PULL = 1.0  # as much as one observation
BINS = 10


def fit(p: Tensor, came_true: Tensor, weights: Tensor | None = None) -> Tensor:
    """Slope and offset (2,) for probabilities (M,) of which some came true (M,) bool; each counts as often as its weight."""
    odds, hits = torch.logit(p.double().clamp(LEAST, MOST)), came_true.double()
    counted = torch.ones_like(hits) if weights is None else weights.double()
    right, wrong = (counted * hits).sum(), (counted * (1 - hits)).sum()
    truth = hits * (right + 1) / (right + 2) + (1 - hits) / (wrong + 2)
    line = torch.tensor([1.0, 0.0], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        stated = line[0] * odds + line[1]
        fit = torch.nn.functional.binary_cross_entropy_with_logits(stated, truth, weight=counted, reduction="sum")
        loss = fit + SLOPE_PULL * (line[0] - 1) ** 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return line.detach().float()


def apply(line: Tensor, p: Tensor) -> Tensor:
    """Calibrated probabilities, of the shape of `p`; 0 stays 0."""
    return torch.sigmoid(line[0] * torch.logit(p.clamp(LEAST, MOST)) + line[1]) * (p > 0)


def expected_error(p: Tensor, came_true: Tensor, weights: Tensor | None = None) -> float:
    """Expected calibration error: |stated − true| share over ten bins of equally many (M,), each counted by its weight."""
    order = torch.argsort(p)
    counted = (torch.ones_like(p) if weights is None else weights)[order]
    parts = zip(p[order].chunk(BINS), came_true[order].float().chunk(BINS), counted.chunk(BINS), strict=True)
    apart = sum(((part - truth) * weight).sum().abs() for part, truth, weight in parts)
    return float(apart / counted.sum())
