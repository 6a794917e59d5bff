"""How many true new behaviors a source names: the diffusion model beside its controls.

Global time split: whatever speaks about the test was trained or counted before it. What its scores add to the ranker is judged
with everything else the ranker reads (`evaluation.ranking`).
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
from evaluation.candidate_scorers import BehaviorModelScorer, Trainer, sequences_at
from evaluation.experiments import Experiment
from evaluation.instances import RankingInstance, build_instances, open_to, some, to_times
from evaluation.intervals import interval
from evaluation.recall import BEST, CUTOFFS, Best, recalls
from reaseq.behavior import diffusion
from reaseq.behavior.diffusion import Sampling, build_slots
from reaseq.behavior.popularity import RecentSales

POPULARITY, RECENT, KNN_BEHAVIOR, KNN_CONTENT = "popularity", "recent popularity", "item-kNN, co-behavior", "item-kNN, content"
LEFT_TO_RIGHT, DIFFUSION, DIFFUSION_CODES = "left to right", "diffusion", "diffusion, semantic IDs"


@dataclass(frozen=True)
class Outcome:
    """One seed: recall of each test instance (n, 2), and of its never-trained targets, NaN where a instance has none."""

    recall: dict[str, NDArray[np.float32]]
    recall_cold: dict[str, NDArray[np.float32]]


class Evaluation:
    """The instances on which every source and every seed is judged."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.sales = RecentSales.from_baskets(experiment.log.baskets, experiment.log.table)
        self.test = some(build_instances(experiment.log, *experiment.test), experiment.instances_limit, 2)
        self._trainer = Trainer(experiment.log, self.sales, experiment.config, experiment.plan)

    def run(self, seed: int, say: Callable[[str], None]) -> Outcome:
        """Everything that hangs on a seed, and the controls that do not."""
        experiment, recall, cold = self.experiment, {}, {}
        cut_ms = experiment.cuts[-1]
        sources: dict[str, Callable[[], Best]] = {
            DIFFUSION: lambda: self._best(self._trainer.diffusion(cut_ms, seed)),
            LEFT_TO_RIGHT: lambda: self._best(self._trainer.left_to_right(cut_ms, seed)),
            DIFFUSION_CODES: lambda: self._best(self._trainer.diffusion(cut_ms, seed, experiment.code_sizes)),
        }
        for name, best in self._counted():
            recall[name], cold[name] = recalls(best, self.test, experiment.unseen)
        for name, make in sources.items():
            recall[name], cold[name] = recalls(make(), self.test, experiment.unseen)
            say(f"{name}: recall@{BEST} {np.nanmean(recall[name][:, 1]):.4f}")
        return Outcome(recall, cold)

    def _counted(self) -> Iterator[tuple[str, Best]]:
        """The controls that are counted, not trained."""
        log, length = self.experiment.log, self.experiment.config.history
        knn = ItemKnn(log.baskets, log.table, self.experiment.cuts[-1])

        def best(score: Callable[[Sequence[RankingInstance]], Tensor]) -> Best:
            return lambda part: score(part).masked_fill(~open_to(part, log.table), -torch.inf).topk(BEST).indices

        yield POPULARITY, best(lambda part: self.sales.counts(to_times(part), 100_000))
        yield RECENT, best(lambda part: self.sales.counts(to_times(part)))
        yield KNN_BEHAVIOR, best(lambda part: torch.from_numpy(knn.by_behavior(sequences_at(part, log, length))))
        yield KNN_CONTENT, best(lambda part: torch.from_numpy(knn.by_content(sequences_at(part, log, length))))

    def _best(self, source: BehaviorModelScorer) -> Best:
        """The rows (B, BEST) that a model infers."""
        table = self.experiment.log.table

        def best(part: Sequence[RankingInstance]) -> Tensor:
            allowed, canvas = open_to(part, table), source.canvas(part)
            with torch.inference_mode():
                if isinstance(source.model, LeftToRight):
                    scores = left_to_right.next_scores(source.model, canvas, source.token_table)
                    return scores.masked_fill(~allowed, -torch.inf).topk(BEST).indices
                slots = build_slots(canvas, BEST)
                return diffusion.denoise(source.model, canvas, source.token_table, allowed, slots, Sampling(BEST, steps=1)).rows

        return best


def report(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Every figure with its interval over users and seeds."""
    users = np.unique([instance.basket.user_id for instance in evaluation.test], return_inverse=True)[1]
    recalled = {
        name: {
            f"recall_{cutoff}{'_cold' if part == 'recall_cold' else ''}": asdict(
                interval([getattr(outcome, part)[name][:, column] for outcome in outcomes], users)
            )
            for part in ("recall", "recall_cold")
            for column, cutoff in enumerate(CUTOFFS)
        }
        for name in outcomes[0].recall
    }
    return {
        "data": evaluation.experiment.log.name,
        "seeds": len(outcomes),
        "test_moments": len(evaluation.test),
        "recall": recalled,
    }


def save_outcome(outcome: Outcome, path: Path) -> None:
    """Keep one seed's outcome, so that a long evaluation can be stopped."""
    arrays = {f"{part}/{name}": values for part, of in asdict(outcome).items() for name, values in of.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def load_outcome(path: Path) -> Outcome:
    """The inverse of `save_outcome`."""
    parts: dict[str, dict[str, NDArray[np.float32]]] = {"recall": {}, "recall_cold": {}}
    with np.load(path) as stored:
        for key in stored.files:
            part, name = key.split("/", 1)
            if part in parts:
                parts[part][name] = stored[key]
    return Outcome(**parts)
