"""Calibration: maps the sampler's probabilities to the share of such inferences that come true.

Platt scaling (Platt 1999) on the log-odds, fitted on baskets later than the training ones. Platt's smoothed targets, and a
penalty that pulls the slope towards 1, keep the fit moderate when few or none came true.
"""

import torch
from torch import Tensor

LEAST, MOST = 1e-6, 1 - 1e-6
SLOPE_PULL = 1.0  # weight of the penalty, relative to one observation
BINS = 10


def fit(p: Tensor, came_true: Tensor, weights: Tensor | None = None) -> Tensor:
    """Slope and offset (2,) for probabilities (M,) and outcomes (M,) bool; `weights` (M,) weigh the observations."""
    log_odds, outcomes = torch.logit(p.double().clamp(LEAST, MOST)), came_true.double()
    weight = torch.ones_like(outcomes) if weights is None else weights.double()
    positives, negatives = (weight * outcomes).sum(), (weight * (1 - outcomes)).sum()
    targets = outcomes * (positives + 1) / (positives + 2) + (1 - outcomes) / (negatives + 2)
    line = torch.tensor([1.0, 0.0], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = line[0] * log_odds + line[1]
        nll = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, weight=weight, reduction="sum")
        loss = nll + SLOPE_PULL * (line[0] - 1) ** 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return line.detach().float()


def apply(line: Tensor, p: Tensor) -> Tensor:
    """Calibrated probabilities, same shape as `p`; 0 stays 0."""
    return torch.sigmoid(line[0] * torch.logit(p.clamp(LEAST, MOST)) + line[1]) * (p > 0)


def expected_error(p: Tensor, came_true: Tensor, weights: Tensor | None = None) -> float:
    """Expected calibration error: mean |stated − observed| share over ten bins of equal count, by weight (M,)."""
    order = torch.argsort(p)
    weight = (torch.ones_like(p) if weights is None else weights)[order]
    bins = zip(p[order].chunk(BINS), came_true[order].float().chunk(BINS), weight.chunk(BINS), strict=True)
    error = sum(((stated - observed) * part).sum().abs() for stated, observed, part in bins)
    return float(error / weight.sum())
