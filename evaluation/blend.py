"""A blend of scorers: a conditional logit (McFadden 1974) over the logarithms of their scores, fitted on held-out targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.leave_one_out import HeldOut, Rows, Score, Scores, batches

CANDIDATES = 60  # best items of each scorer that the weights are fitted on
PENALTY = 1e-3  # on the squares of the weights
STEPS = 60


@dataclass(frozen=True)
class Blend:
    """score = Σ_k weight_k · ln(1 + score_k / scale_k), for scorers k whose scores are 0 or more."""

    scorers: tuple[Score, ...]
    scales: Scores  # (K,) median of the positive scores of candidates
    weights: Scores  # (K,)

    def score(self, held_out: HeldOut) -> Scores:
        """Scores (B, N)."""
        total = np.zeros((len(held_out), held_out.histories.items), np.float32)
        for scorer, scale, weight in zip(self.scorers, self.scales, self.weights, strict=True):
            total += weight * np.log1p(scorer(held_out) / scale)
        return total


def fit_blend(scorers: Sequence[Score], held_out: HeldOut) -> Blend:
    """The blend under which the targets are likeliest among the best items of all scorers."""
    scores, users, is_target = _collect(scorers, held_out)
    scales = np.array([np.median(column[column > 0]) for column in scores.T], np.float32)
    known = np.bincount(users, is_target, len(held_out))[users] > 0  # the target is a candidate
    features = torch.from_numpy(np.log1p(scores[known] / scales))
    weights = _maximize_likelihood(features, torch.from_numpy(users[known]), torch.from_numpy(is_target[known]))
    return Blend(tuple(scorers), scales, weights)


def _collect(scorers: Sequence[Score], held_out: HeldOut) -> tuple[Scores, Rows, NDArray[np.bool_]]:
    """For each candidate of each user: its scores (M, K), the user (M,), and whether it is the target (M,)."""
    scores, users, is_target = [], [], []
    for part in batches(len(held_out)):
        of_part = held_out[part]
        by_scorer = [scorer(of_part) for scorer in scorers]  # K × (B, N)
        candidate = np.zeros(by_scorer[0].shape, bool)
        for of_scorer in by_scorer:
            best = np.argpartition(-of_scorer, CANDIDATES, axis=1)[:, :CANDIDATES]
            user, place = np.nonzero(np.take_along_axis(of_scorer, best, axis=1) > 0)
            candidate[user, best[user, place]] = True
        candidate[:, 0] = False
        user, row = np.nonzero(candidate)
        scores.append(np.stack([of_scorer[user, row] for of_scorer in by_scorer], axis=-1))
        users.append(part[user])
        is_target.append(row == of_part.targets[user])
    return np.concatenate(scores), np.concatenate(users), np.concatenate(is_target)


def _maximize_likelihood(features: Tensor, users: Tensor, is_target: Tensor) -> Scores:
    """Weights (K,) that maximize the mean log-likelihood of the targets, each among the candidates (M, K) of its user."""
    weights = torch.zeros(features.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")
    count = int(users.max()) + 1

    def closure() -> Tensor:
        optimizer.zero_grad()
        utilities = features @ weights
        totals = torch.zeros(count).index_add(0, users, utilities.exp())
        likelihood = (utilities - totals[users].log())[is_target].mean()
        loss = PENALTY * (weights**2).sum() - likelihood
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    fitted: Scores = weights.detach().numpy()
    return fitted
