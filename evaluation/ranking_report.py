"""From outcomes of rankings to figures: GAUC, hit rate, NDCG, log loss and pooled AUC, with intervals over users and seeds.

Gains are paired, target by target. Buckets are by how often training saw the target taken.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.intervals import interval
from evaluation.ranking import EvaluationPart, Outcome, RankingExperiment, compute_auc

BUCKETS = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20+": (20, 2**31)}  # times seen, both ends included
HIT_CUTOFFS, NDCG_CUTOFF = (5, 10), 10

Array = NDArray[np.float32]


def report(experiment: RankingExperiment, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Every figure of a experiment, by part of the test and kind of negatives."""
    seen = _times_seen(experiment)
    return {
        "data": experiment.name,
        "seeds": len(outcomes),
        "items": len(experiment.table) - 1,
        "training_lists": [len(part.candidate_sets) for part in experiment.train],
        "parts": {name: _part(experiment, name, part, seen, outcomes) for name, part in experiment.test.items()},
    }


def _part(
    experiment: RankingExperiment, name: str, part: EvaluationPart, seen: torch.Tensor, outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    users = np.unique([instance.basket.user_id for instance in part.instances], return_inverse=True)[1]
    times = np.where(
        part.candidate_sets.real[:, : part.candidate_sets.targets.shape[1]], seen[part.candidate_sets.targets], -1
    )  # (n, TARGETS)
    kinds = list(part.candidate_sets.against)
    names = [variant.name for variant in experiment.variants]
    ages = (
        [f"{experiment.variants[-1].name}, {age} old" for age in experiment.ages_ms]
        if name == next(iter(experiment.test))
        else []
    )
    stated = name == next(iter(experiment.test))  # probabilities are calibrated for the first part alone
    judged = {variant: _variant(variant, kinds, users, times, outcomes, stated) for variant in (*names, *ages)}
    gains = {
        f"{more} over {less}": _gain(more, less, kinds, users, times, outcomes)
        for more, less in (*experiment.gains, *((age, ages[0]) for age in ages[1:]))
    }
    counts = {bucket: int(((times >= low) & (times <= high)).sum()) for bucket, (low, high) in BUCKETS.items()}
    return {
        "candidate_sets": len(part.candidate_sets),
        "targets": int((times >= 0).sum()),
        "targets_by_times_seen": counts,
        "variants": judged,
        "gains": gains,
    }


def _variant(
    name: str,
    kinds: list[str],
    users: NDArray[np.int64],
    times: NDArray[Any],
    outcomes: Sequence[Outcome],
    stated: bool,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in kinds:
        ranks = [outcome[f"{name}|{kind}|rank"] for outcome in outcomes]
        aucs = [compute_auc(outcome, name, kind) for outcome in outcomes]
        found[kind] = {
            "gauc": _estimate(aucs, users),
            **{f"hr_{k}": _estimate([_where(rank, rank <= k) for rank in ranks], users) for k in HIT_CUTOFFS},
            f"ndcg_{NDCG_CUTOFF}": _estimate([_ndcg(rank) for rank in ranks], users),
            "gauc_by_times_seen": _by_bucket(aucs, users, times),
        }
    first = kinds[0]
    if stated:
        losses = [outcome[f"{name}|{first}|logloss"] for outcome in outcomes]
        pooled = [float(outcome[f"{name}|{first}|auc"]) for outcome in outcomes]
        found[first] |= {"logloss": _estimate(losses, users), "auc": round(float(np.mean(pooled)), 5), "auc_by_seed": pooled}
    return found


def _gain(
    more: str, less: str, kinds: list[str], users: NDArray[np.int64], times: NDArray[Any], outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    found = {}
    for kind in kinds:
        apart = [compute_auc(outcome, more, kind) - compute_auc(outcome, less, kind) for outcome in outcomes]
        found[kind] = {"gauc": _estimate(apart, users), "gauc_by_times_seen": _by_bucket(apart, users, times)}
    return found


def _by_bucket(per_seed: list[Array], users: NDArray[np.int64], times: NDArray[Any]) -> dict[str, Any]:
    inside = {bucket: (times >= low) & (times <= high) for bucket, (low, high) in BUCKETS.items()}
    return {
        bucket: _estimate([np.where(of, values, np.nan).astype(np.float32) for values in per_seed], users)
        for bucket, of in inside.items()
        if of.any()
    }


def _estimate(per_seed: Sequence[Array], users: NDArray[np.int64]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in asdict(interval(per_seed, users)).items()}


def _where(ranks: Array, hit: NDArray[np.bool_]) -> Array:
    return np.where(np.isnan(ranks), np.nan, hit).astype(np.float32)


def _ndcg(ranks: Array) -> Array:
    """1 / log2(1 + rank) within the cutoff: of one target, whose ideal is 1 (Järvelin and Kekäläinen 2002)."""
    gains = np.where(ranks <= NDCG_CUTOFF, 1 / np.log2(1 + np.maximum(ranks, 1)), 0)
    return np.where(np.isnan(ranks), np.nan, gains).astype(np.float32)


def _times_seen(experiment: RankingExperiment) -> torch.Tensor:
    """How often each row (N,) was taken before the test, or before its last training instance where nothing is cut."""
    until_ms = experiment.cuts[-1] if experiment.cuts else 2**62
    rows = experiment.table.rows([item_id for time, item_id in experiment.events if time < until_ms])
    return torch.bincount(rows, minlength=len(experiment.table))
