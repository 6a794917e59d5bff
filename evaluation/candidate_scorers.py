"""Where scores of candidates come from beside the ranker: each made of what was before a cut, never of what is to be told."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evaluation.baselines import left_to_right
from evaluation.baselines.item_knn import ItemKnn
from evaluation.baselines.left_to_right import LeftToRight
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.instances import RankingInstance, to_times
from reaseq.behavior import training
from reaseq.behavior.diffusion import Canvas, build_slots
from reaseq.behavior.examples import build_canvas
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.popularity import RecentSales
from reaseq.behavior.sequence import Sequences, build_sequences
from reaseq.behavior.token_table import MASK, build_trie
from reaseq.behavior.training import BehaviorTrainingConfig, BehaviorTrainingData
from reaseq.optimizer import Optimizer
from reaseq.ranker.latent import LatentScores
from reaseq.representation.semantic_ids import fit
from reaseq.representation.trained_ids import TrainedIds
from reaseq.training_loop import count_steps

HISTORY_SHARE = 0.1  # of the history that the left-to-right control also learns to tell
CHUNK = 256


class CandidateScorer(Protocol):
    """Scores candidates by what it learnt of the log before its cut."""

    def scores(self, instances: Sequence[RankingInstance], rows: Tensor) -> Tensor:
        """Scores (n, C, E) of rows (n, C)."""
        ...


class KnnScorer:
    """Item-kNN as the ranker reads it: by co-behavior, and by content."""

    def __init__(self, log: InteractionLog, cut_ms: int, history: int) -> None:
        self._knn, self._log, self._history = ItemKnn(log.baskets, log.table, cut_ms), log, history

    def scores(self, instances: Sequence[RankingInstance], rows: Tensor) -> Tensor:
        """Both similarities, scaled to the order of one."""
        parts = []
        for start in range(0, len(instances), CHUNK):
            history = sequences_at(instances[start : start + CHUNK], self._log, self._history)
            both = np.stack([np.log1p(100 * self._knn.by_behavior(history)), 3 * self._knn.by_content(history)], axis=-1)
            of = rows[start : start + CHUNK].unsqueeze(-1).expand(-1, -1, 2)
            parts.append(torch.from_numpy(both).gather(1, of))
        return torch.cat(parts)


class BehaviorModelScorer:
    """A behavior model or its left-to-right control as the ranker is served it: by the state that it leaves of a user."""

    def __init__(
        self, model: BehaviorModel, data: BehaviorTrainingData, ids: TrainedIds, log: InteractionLog, sales: RecentSales
    ) -> None:
        self.model, self._ids, self._log, self._sales = model, ids, log, sales
        with torch.inference_mode():
            self.token_table = model.token_table(data.table, data.ids, data.tree)

    def scores(self, instances: Sequence[RankingInstance], rows: Tensor) -> Tensor:
        """See `reaseq.ranker.latent`."""
        latent, parts = LatentScores(self.model, self._ids), []
        with torch.inference_mode():
            for start in range(0, len(instances), CHUNK):
                states = self.state(self.canvas(instances[start : start + CHUNK]))
                parts.append(latent.score(states, rows[start : start + CHUNK], self._log.table))
        return torch.cat(parts).clone()

    def canvas(self, instances: Sequence[RankingInstance]) -> Canvas:
        """The instances' histories as the model reads them."""
        times, length = to_times(instances), self.model.config.history
        history = sequences_at(instances, self._log, length)
        return build_canvas(history, times, self.token_table, self._sales.prior(times))

    def state(self, canvas: Canvas) -> Tensor:
        """The hidden state (B, d) of what comes next."""
        if isinstance(self.model, LeftToRight):
            return self.model.hidden(canvas, self.token_table)[:, -1]
        slots = build_slots(canvas, 1)
        masked = canvas.followed_by(torch.full((*slots.positions.shape, 1), MASK), slots.positions, slots.gaps)
        return self.model.hidden(masked, self.token_table)[:, -1]


class Trainer:
    """Trains sources on what was before a cut."""

    def __init__(self, log: InteractionLog, sales: RecentSales, config: BehaviorConfig, plan: BehaviorTrainingConfig) -> None:
        self._log, self._sales, self._config, self._plan = log, sales, config, plan

    def data(self, cut_ms: int, sizes: tuple[int, ...] = ()) -> tuple[BehaviorTrainingData, TrainedIds, BehaviorConfig]:
        """What a model learns from; `sizes` are those of semantic IDs, where it is to write with them."""
        log, config, tree = self._log, replace(self._config, codes=sizes), None
        if sizes:
            before = log.table.vectors[log.table.listed_ms < cut_ms].numpy()
            tree = build_trie(fit(before, log.name, len(sizes), sizes[0]), log.table.vectors, log.name)
        data, ids = training.build_training_data(log.between(0, cut_ms), log.table, config, tree=tree)
        return replace(data, sales=self._sales), ids, replace(config, items=len(ids))

    def diffusion(self, cut_ms: int, seed: int, sizes: tuple[int, ...] = ()) -> BehaviorModelScorer:
        """The behavior model; with `sizes`, one that writes semantic IDs, which has no scores."""
        data, ids, config = self.data(cut_ms, sizes)
        model, _ = training.train(data, config, replace(self._plan, seed=seed))
        return BehaviorModelScorer(model, data, ids, self._log, self._sales)

    def left_to_right(self, cut_ms: int, seed: int) -> BehaviorModelScorer:
        """Its control of the same size and budget."""
        data, ids, config = self.data(cut_ms)
        plan = self._plan
        torch.manual_seed(seed)
        model = LeftToRight(config)
        optimizer = Optimizer(model, plan.learning_rate, plan.weight_decay, count_steps(len(data.train), plan))
        model.train()
        for _ in range(plan.epochs):
            for places in torch.split(torch.randperm(len(data.train)), plan.batch_baskets):
                token_table = model.token_table(data.table, data.ids)
                optimizer.step(left_to_right.loss(model, data.train[places], token_table, self._sales, HISTORY_SHARE))
        return BehaviorModelScorer(model.eval(), data, ids, self._log, self._sales)


ScorerFactory = Callable[[int], CandidateScorer]  # the source that was made before a cut


def sequences_at(instances: Sequence[RankingInstance], log: InteractionLog, length: int) -> Sequences:
    """The instances' histories as sequences."""
    histories = [instance.basket.history for instance in instances]
    return build_sequences(histories, to_times(instances).tolist(), log.table, length)
