"""Turns ranking outcomes into figures: GAUC, hit rate, NDCG, log loss and pooled AUC, with intervals over users and seeds.

Gains are paired, target by target. Buckets are by how often the target occurs in the training period.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation import metrics
from evaluation.instances import number_users
from evaluation.intervals import estimate_mean
from evaluation.outcomes import Array, KindOutcome, RankingOutcomes
from evaluation.ranking import NEVER_MS, EvaluationSplit, RankingExperiment

BUCKETS = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20+": (20, 2**31)}  # times seen, both ends included
HIT_CUTOFFS, NDCG_CUTOFF = (5, 10), 10


def build_report(experiment: RankingExperiment, outcomes: Sequence[RankingOutcomes]) -> dict[str, Any]:
    """Every figure of an experiment, by test split and kind of negatives; `outcomes` holds one entry for each seed."""
    seen_counts = _count_seen(experiment)
    splits: dict[str, Any] = {}
    for name, split in experiment.test.items():
        first = not splits  # probabilities are calibrated, and features aged, for the first split only
        aged = list(experiment.aged_variants) if first else []
        variants = (*(variant.name for variant in experiment.variants), *aged)
        gains = (*experiment.gains, *((age, aged[0]) for age in aged[1:]))
        report = SplitReport(split, seen_counts, outcomes)
        splits[name] = {
            "candidate_sets": len(split.candidate_sets),
            "targets": int((report.times_seen >= 0).sum()),
            "targets_by_times_seen": {bucket: int(inside.sum()) for bucket, inside in report.buckets.items()},
            "variants": {variant: report.judge(variant, probabilities=first) for variant in variants},
            "gains": {f"{variant} over {baseline}": report.compare(variant, baseline) for variant, baseline in gains},
        }
    return {
        "data": experiment.name,
        "seeds": len(outcomes),
        "items": len(experiment.table) - 1,
        "training_candidate_sets": [len(split.candidate_sets) for split in experiment.train],
        "splits": splits,
    }


class SplitReport:
    """Figures of one test split."""

    def __init__(self, split: EvaluationSplit, seen_counts: torch.Tensor, outcomes: Sequence[RankingOutcomes]) -> None:
        candidate_sets = split.candidate_sets
        targets = candidate_sets.targets
        exists = candidate_sets.mask[:, : targets.shape[1]]
        self.times_seen: NDArray[np.int64] = np.where(exists, seen_counts[targets], -1)  # (n, T), -1 for padding
        self.buckets = {bucket: (self.times_seen >= low) & (self.times_seen <= high) for bucket, (low, high) in BUCKETS.items()}
        self._kinds = list(candidate_sets.negatives)
        self._users = number_users(split.instances)
        self._outcomes = outcomes

    def judge(self, variant: str, probabilities: bool) -> dict[str, Any]:
        """A variant's figures by kind of negatives, with log loss and pooled AUC if `probabilities`."""
        figures: dict[str, Any] = {}
        for kind in self._kinds:
            per_seed = self._find(variant, kind)
            aucs = [outcome.target_auc for outcome in per_seed]
            figures[kind] = {
                "gauc": self._estimate(aucs),
                **{
                    f"hr_{cutoff}": self._estimate([metrics.hit(outcome.ranks, cutoff) for outcome in per_seed])
                    for cutoff in HIT_CUTOFFS
                },
                f"ndcg_{NDCG_CUTOFF}": self._estimate([metrics.ndcg(outcome.ranks, NDCG_CUTOFF) for outcome in per_seed]),
                "gauc_by_times_seen": self._estimate_by_bucket(aucs),
            }
        if probabilities:
            first = self._kinds[0]
            figures[first] |= self._judge_probabilities(self._find(variant, first))
        return figures

    def compare(self, variant: str, baseline: str) -> dict[str, Any]:
        """GAUC gained over a baseline, by kind of negatives."""
        figures = {}
        for kind in self._kinds:
            pairs = zip(self._find(variant, kind), self._find(baseline, kind), strict=True)
            gained = [more.target_auc - less.target_auc for more, less in pairs]
            figures[kind] = {"gauc": self._estimate(gained), "gauc_by_times_seen": self._estimate_by_bucket(gained)}
        return figures

    def _find(self, variant: str, kind: str) -> list[KindOutcome]:
        return [outcome[variant].kinds[kind] for outcome in self._outcomes]

    def _judge_probabilities(self, per_seed: Sequence[KindOutcome]) -> dict[str, Any]:
        losses = [outcome.log_loss for outcome in per_seed if outcome.log_loss is not None]
        aucs = [outcome.auc for outcome in per_seed if outcome.auc is not None]
        return {"log_loss": self._estimate(losses), "auc": round(float(np.mean(aucs)), 5), "auc_by_seed": aucs}

    def _estimate_by_bucket(self, per_seed: Sequence[Array]) -> dict[str, Any]:
        return {
            bucket: self._estimate([np.where(inside, values, np.nan).astype(np.float32) for values in per_seed])
            for bucket, inside in self.buckets.items()
            if inside.any()
        }

    def _estimate(self, per_seed: Sequence[Array]) -> dict[str, float]:
        return {name: round(value, 5) for name, value in asdict(estimate_mean(per_seed, self._users)).items()}


def _count_seen(experiment: RankingExperiment) -> torch.Tensor:
    """How often each row (N,) occurs in the events before the test, or in all events if the experiment has no cuts."""
    until_ms = experiment.cuts_ms[-1] if experiment.cuts_ms else NEVER_MS
    rows = experiment.table.rows(experiment.events.item_ids)[torch.from_numpy(experiment.events.times_ms < until_ms)]
    return torch.bincount(rows, minlength=len(experiment.table))
