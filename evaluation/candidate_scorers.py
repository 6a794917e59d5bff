"""Candidate scorers: models whose scores are an input of the ranker. Each learns from the log before a cut."""

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

HISTORY_LOSS_SHARE = 0.1  # of the history's behaviors, which the left-to-right baseline learns to predict too
CHUNK = 256


class CandidateScorer(Protocol):
    """Scores candidates, based on the log before a cut."""

    def scores(self, instances: Sequence[RankingInstance], rows: Tensor) -> Tensor:
        """Scores (n, C, E) of the candidates' rows (n, C)."""
        ...


ScorerFactory = Callable[[int], CandidateScorer]  # builds the scorer for a cut, in ms


class KnnScorer:
    """Item-kNN scores: by co-behavior and by content."""

    def __init__(self, log: InteractionLog, cut_ms: int, history: int) -> None:
        self._knn, self._log, self._history = ItemKnn(log.baskets, log.table, cut_ms), log, history

    def scores(self, instances: Sequence[RankingInstance], rows: Tensor) -> Tensor:
        """Both similarities, scaled to the order of one."""
        parts = []
        for start in range(0, len(instances), CHUNK):
            history = build_history_sequences(instances[start : start + CHUNK], self._log, self._history)
            by_behavior, by_content = self._knn.score_by_behavior(history), self._knn.score_by_content(history)
            both = np.stack([np.log1p(100 * by_behavior), 3 * by_content], axis=-1)  # (b, N, 2)
            candidates = rows[start : start + CHUNK].unsqueeze(-1).expand(-1, -1, 2)
            parts.append(torch.from_numpy(both).gather(1, candidates))
        return torch.cat(parts)


class BehaviorModelScorer:
    """Latent scores of a behavior model or of its left-to-right baseline, from its state after the user's history."""

    def __init__(
        self, model: BehaviorModel, data: BehaviorTrainingData, ids: TrainedIds, log: InteractionLog, sales: RecentSales
    ) -> None:
        self.model, self._ids, self._log, self._sales = model, ids, log, sales
        with torch.inference_mode():
            self.token_table = model.token_table(data.table, data.ids, data.trie)

    def scores(self, instances: Sequence[RankingInstance], rows: Tensor) -> Tensor:
        """See `reaseq.ranker.latent`."""
        latent, parts = LatentScores(self.model, self._ids), []
        with torch.inference_mode():
            for start in range(0, len(instances), CHUNK):
                states = self._build_states(self.build_canvas(instances[start : start + CHUNK]))
                parts.append(latent.score(states, rows[start : start + CHUNK], self._log.table))
        return torch.cat(parts).clone()

    def build_canvas(self, instances: Sequence[RankingInstance]) -> Canvas:
        """The instances' histories as the model's input."""
        times, length = to_times(instances), self.model.config.history
        history = build_history_sequences(instances, self._log, length)
        return build_canvas(history, times, self.token_table, self._sales.prior(times))

    def _build_states(self, canvas: Canvas) -> Tensor:
        """Hidden states (B, d) of the next behavior."""
        if isinstance(self.model, LeftToRight):
            return self.model.hidden(canvas, self.token_table)[:, -1]
        slots = build_slots(canvas, 1)
        masked = canvas.followed_by(torch.full((*slots.positions.shape, 1), MASK), slots.positions, slots.gaps)
        return self.model.hidden(masked, self.token_table)[:, -1]


class ScorerTrainer:
    """Trains behavior models, and their left-to-right baseline, on the log before a cut."""

    def __init__(
        self, log: InteractionLog, sales: RecentSales, config: BehaviorConfig, training_config: BehaviorTrainingConfig
    ) -> None:
        self._log, self._sales, self._config, self._training = log, sales, config, training_config

    def train_diffusion(self, cut_ms: int, seed: int, code_sizes: tuple[int, ...] = ()) -> BehaviorModelScorer:
        """The behavior model. With `code_sizes`, it uses semantic IDs and cannot score candidates."""
        data, ids, config = self._build_data(cut_ms, code_sizes)
        model, _ = training.train(data, config, replace(self._training, seed=seed))
        return BehaviorModelScorer(model, data, ids, self._log, self._sales)

    def train_left_to_right(self, cut_ms: int, seed: int) -> BehaviorModelScorer:
        """The left-to-right baseline, with the same size and training budget."""
        data, ids, config = self._build_data(cut_ms)
        budget = self._training
        torch.manual_seed(seed)
        model = LeftToRight(config)
        optimizer = Optimizer(model, budget.learning_rate, budget.weight_decay, count_steps(len(data.train), budget))
        model.train()
        for _ in range(budget.epochs):
            for indices in torch.split(torch.randperm(len(data.train)), budget.batch_baskets):
                token_table = model.token_table(data.table, data.ids)
                optimizer.step(left_to_right.loss(model, data.train[indices], token_table, self._sales, HISTORY_LOSS_SHARE))
        return BehaviorModelScorer(model.eval(), data, ids, self._log, self._sales)

    def _build_data(
        self, cut_ms: int, code_sizes: tuple[int, ...] = ()
    ) -> tuple[BehaviorTrainingData, TrainedIds, BehaviorConfig]:
        log, config, trie = self._log, replace(self._config, codes=code_sizes), None
        if code_sizes:
            before = log.table.vectors[log.table.listed_ms < cut_ms].numpy()
            trie = build_trie(fit(before, log.name, len(code_sizes), code_sizes[0]), log.table.vectors, log.name)
        data, ids = training.build_training_data(log.between(0, cut_ms), log.table, config, trie=trie)
        return replace(data, sales=self._sales), ids, replace(config, items=len(ids))


def build_history_sequences(instances: Sequence[RankingInstance], log: InteractionLog, length: int) -> Sequences:
    """The latest `length` behaviors of each instance's history."""
    histories = [instance.basket.history for instance in instances]
    return build_sequences(histories, to_times(instances).tolist(), log.table, length)
