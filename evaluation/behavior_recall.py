"""The share of a user's new behaviors that the diffusion model infers, compared with baselines.

Global time split: everything is trained or counted on data before the test. `evaluation.ranking` judges what the model's scores
add to the ranker.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.baselines import left_to_right
from evaluation.baselines.item_knn import ItemKnn
from evaluation.baselines.left_to_right import LeftToRight
from evaluation.candidate_scorers import BehaviorModelScorer, ScorerTrainer, build_history_sequences
from evaluation.experiments.experiment import Experiment
from evaluation.instances import (
    RankingInstance,
    build_candidate_mask,
    build_instances,
    number_users,
    sample_instances,
    to_times,
)
from evaluation.intervals import estimate_mean
from evaluation.recall import CUTOFFS, TOP_K, Retriever, compute_recall
from reaseq.behavior import diffusion
from reaseq.behavior.diffusion import Sampling, build_slots
from reaseq.behavior.popularity import RecentSales

POPULARITY, RECENT, KNN_BEHAVIOR, KNN_CONTENT = "popularity", "recent popularity", "item-kNN, co-behavior", "item-kNN, content"
LEFT_TO_RIGHT, DIFFUSION, DIFFUSION_CODES = "left to right", "diffusion", "diffusion, semantic IDs"
ALL_DAYS = 100_000


@dataclass(frozen=True)
class RecallOutcome:
    """One seed's recall of each test instance (n, 2), by retriever; `recall_cold` is over never-trained targets, or NaN."""

    recall: dict[str, NDArray[np.float32]]
    recall_cold: dict[str, NDArray[np.float32]]


class RecallEvaluation:
    """The instances that every retriever and every seed is judged on."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.sales = RecentSales.from_baskets(experiment.log.baskets, experiment.log.table)
        self.test = sample_instances(build_instances(experiment.log, *experiment.test_ms), experiment.instances_limit, 2)
        self._trainer = ScorerTrainer(experiment.log, self.sales, experiment.config, experiment.training_config)

    def run(self, seed: int, report: Callable[[str], None]) -> RecallOutcome:
        """Judge the models of a seed, and the baselines that need no training."""
        experiment = self.experiment
        outcome = RecallOutcome({}, {})
        for name, retrieve in (*self._counted_retrievers(), *self._trained_retrievers(seed)):
            outcome.recall[name], outcome.recall_cold[name] = compute_recall(retrieve, self.test, experiment.cold_items)
            report(f"{name}: recall@{TOP_K} {np.nanmean(outcome.recall[name][:, 1]):.4f}")
        return outcome

    def _counted_retrievers(self) -> Iterator[tuple[str, Retriever]]:
        """The baselines that need no training."""
        log, length = self.experiment.log, self.experiment.config.history
        knn = ItemKnn(log.baskets, log.table, self.experiment.cuts_ms[-1])

        def take_best(score: Callable[[Sequence[RankingInstance]], Tensor]) -> Retriever:
            return lambda part: score(part).masked_fill(~build_candidate_mask(part, log.table), -torch.inf).topk(TOP_K).indices

        yield POPULARITY, take_best(lambda part: self.sales.counts(to_times(part), ALL_DAYS))
        yield RECENT, take_best(lambda part: self.sales.counts(to_times(part)))
        for name, score in ((KNN_BEHAVIOR, knn.score_by_behavior), (KNN_CONTENT, knn.score_by_content)):
            yield (
                name,
                take_best(
                    lambda part, score=score: torch.from_numpy(score(build_history_sequences(part, log, length)))  # type: ignore[misc]
                ),
            )

    def _trained_retrievers(self, seed: int) -> Iterator[tuple[str, Retriever]]:
        """The behavior model, its left-to-right baseline and the variant with semantic IDs; trained when reached."""
        trainer, cut_ms = self._trainer, self.experiment.cuts_ms[-1]
        yield DIFFUSION, self._retrieve_with(trainer.train_diffusion(cut_ms, seed))
        yield LEFT_TO_RIGHT, self._retrieve_with(trainer.train_left_to_right(cut_ms, seed))
        yield DIFFUSION_CODES, self._retrieve_with(trainer.train_diffusion(cut_ms, seed, self.experiment.code_sizes))

    def _retrieve_with(self, scorer: BehaviorModelScorer) -> Retriever:
        table = self.experiment.log.table

        def retrieve(part: Sequence[RankingInstance]) -> Tensor:
            allowed, canvas = build_candidate_mask(part, table), scorer.build_canvas(part)
            with torch.inference_mode():
                if isinstance(scorer.model, LeftToRight):
                    scores = left_to_right.score_next(scorer.model, canvas, scorer.token_table)
                    return scores.masked_fill(~allowed, -torch.inf).topk(TOP_K).indices
                slots, sampling = build_slots(canvas, TOP_K), Sampling(TOP_K, steps=1)
                return diffusion.denoise(scorer.model, canvas, scorer.token_table, allowed, slots, sampling).rows

        return retrieve


def build_report(evaluation: RecallEvaluation, outcomes: Sequence[RecallOutcome]) -> dict[str, Any]:
    """Every figure with its interval over users and seeds."""
    users = number_users(evaluation.test)
    recall = {
        name: {
            f"recall_{cutoff}{suffix}": asdict(
                estimate_mean([getattr(outcome, f"recall{suffix}")[name][:, column] for outcome in outcomes], users)
            )
            for suffix in ("", "_cold")
            for column, cutoff in enumerate(CUTOFFS)
        }
        for name in outcomes[0].recall
    }
    return {
        "data": evaluation.experiment.log.name,
        "seeds": len(outcomes),
        "test_instances": len(evaluation.test),
        "recall": recall,
    }


def save_outcome(outcome: RecallOutcome, path: Path) -> None:
    """Write one seed's outcome, so that a long evaluation can resume."""
    arrays = {f"{part}/{name}": values for part, by_name in asdict(outcome).items() for name, values in by_name.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def load_outcome(path: Path) -> RecallOutcome:
    """The inverse of `save_outcome`."""
    parts: dict[str, dict[str, NDArray[np.float32]]] = {"recall": {}, "recall_cold": {}}
    with np.load(path) as stored:
        for key in stored.files:
            part, name = key.split("/", 1)
            if part in parts:
                parts[part][name] = stored[key]
    return RecallOutcome(**parts)
