"""The demo's task on the log alone: ranker and peers rank every product on sale before each basket of the last two weeks.

Baskets and products are those of the demo. The ranker's features are the demo's too, without inferred behaviors, which need the
behavior models that the demo trains. Everything was chosen on the two weeks before, which `validation` ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.baselines.als import Als
from evaluation.baselines.cheap import EASE, PERSONAL, TIFU, fit_cheap
from evaluation.baselines.lambdarank import LambdaRank
from evaluation.baselines.purchases import Purchases, Scores
from evaluation.baselines.up_cf import UpCf
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.experiments.online_retail import VOCABULARY, load_log
from evaluation.judge import Assortment, Judge
from reaseq.days import time_ms
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.ranker.batch import RankedUser, build_batch
from reaseq.ranker.model import RankerBatch, RankerConfig
from reaseq.ranker.training import RankerSample, RankerTrainingConfig, claim_rates, embedded, train
from reaseq.ranker.training_data import RankerLog, RankerTrainingData, build_training_data
from reaseq.records import History, Inferred
from reaseq.representation.encoder import Encoder

RANKER, UP_CF, ALS, LAMBDARANK = "ranker", "UP-CF, sales", "ALS, bought before, sales", "LightGBM lambdarank"
PEERS = (PERSONAL, EASE, TIFU, UP_CF, ALS, LAMBDARANK)
TRAIN_DAY, VALIDATION_DAY, TEST_DAY, END_DAY = "2011-06-01", "2011-11-11", "2011-11-25", "2011-12-31"
HISTORY = 512  # behaviors of a user, as in the feature store
ATTENDED = 64  # of them, that attention reads

ScoreAll = Callable[[str, History, int], Scores]  # user, history and time → a score for each row of the item table


@dataclass(frozen=True)
class BasketExperiment:
    """A log whose baskets of [start, end) are ranked. Models train on those before, the learned ones from `since_ms` on."""

    log: InteractionLog
    since_ms: int
    start_ms: int
    end_ms: int


def load(order_lines: Path, answers: Path, encoder: Encoder, cache: Path, validation: bool) -> BasketExperiment:
    """The experiment on the test weeks, or on the two weeks before."""
    start_ms, end_ms = (time_ms(day) for day in ((VALIDATION_DAY, TEST_DAY) if validation else (TEST_DAY, END_DAY)))
    vocabulary = load_vocabulary(VOCABULARY)
    log = load_log(order_lines, answers, vocabulary, encoder, cache, known_ms=start_ms, history=HISTORY)
    return BasketExperiment(log, time_ms(TRAIN_DAY), start_ms, end_ms)


def run(experiment: BasketExperiment, seed: int, report: Callable[[str], None]) -> Judge:
    """Train all models, then rank, judge and learn basket by basket."""
    log, table = experiment.log, experiment.log.table
    purchases = Purchases()
    earlier = log.between(0, experiment.start_ms)
    for basket in earlier:
        purchases.add(basket.user_id, basket.time_ms, table.rows(basket.item_ids).numpy())
    models = _fit_models(experiment, purchases, seed, report)
    judge = Judge(models, {item_id for basket in earlier for item_id in basket.item_ids}, earlier)
    every = np.arange(len(table))
    for basket in log.between(experiment.start_ms, experiment.end_ms):
        on_sale = (table.live & (table.listed_ms < basket.time_ms)).numpy()
        sold = purchases.popularity.counts(every, basket.time_ms)[:, -1]
        scores = {name: score(basket.user_id, basket.history, basket.time_ms) for name, score in models.items()}
        judge.judge(basket, Assortment(table.ids, on_sale, sold), scores)
        judge.learn(basket)
        purchases.add(basket.user_id, basket.time_ms, table.rows(basket.item_ids).numpy())
    return judge


def _fit_models(
    experiment: BasketExperiment, purchases: Purchases, seed: int, report: Callable[[str], None]
) -> dict[str, ScoreAll]:
    table = experiment.log.table
    items = len(table)
    report("fitting the cheap peers, UP-CF and ALS")
    baselines = {**fit_cheap(purchases, items), UP_CF: UpCf(purchases, items), ALS: Als(purchases, items, seed=seed)}

    def ignore_history(score: Callable[[str, int, int], Scores]) -> ScoreAll:
        return lambda user_id, _, now_ms: score(user_id, now_ms, items)

    report("building the ranker's training data")
    training = RankerTrainingConfig(seed=seed)
    data = _build_data(experiment, training)
    inputs = _Inputs(experiment, purchases, data)
    report("training the ranker")
    ranker = _train_ranker(experiment, data, training)
    report("training LightGBM")
    trees = LambdaRank(data.train, table, claim_rates(table, data.config.claims), seed)
    return {
        RANKER: lambda user_id, history, now_ms: ranker(inputs.build(history, now_ms)),
        LAMBDARANK: lambda user_id, history, now_ms: trees.score(inputs.build(history, now_ms)),
        **{name: ignore_history(baseline.score) for name, baseline in baselines.items()},
    }


def _build_data(experiment: BasketExperiment, training: RankerTrainingConfig) -> RankerTrainingData:
    log = experiment.log
    samples = [RankerSample(basket, Inferred()) for basket in log.between(0, experiment.start_ms)]
    dimensions = log.table.contents.vectors.shape[1]
    config = RankerConfig(vector_dim=dimensions, claims=log.claims, history=ATTENDED, inferred=0)
    return build_training_data(RankerLog(samples), log.table, None, config, training, experiment.since_ms)


def _train_ranker(
    experiment: BasketExperiment, data: RankerTrainingData, training: RankerTrainingConfig
) -> Callable[[RankerBatch], Scores]:
    table = experiment.log.table
    model, _ = train(data.train, data.held_out, table, data.ids, data.config, training)
    with torch.inference_mode():
        items = embedded(model, table, data.ids.number_rows(table, table.rows_of_slots))

    @torch.inference_mode()
    def score(batch: RankerBatch) -> Scores:
        scores: Scores = model(batch, items)[0].numpy()
        return scores

    return score


class _Inputs:
    """What the learned models read of every row for one user."""

    def __init__(self, experiment: BasketExperiment, purchases: Purchases, data: RankerTrainingData) -> None:
        self._table, self._purchases, self._data = experiment.log.table, purchases, data
        self._rows = torch.arange(len(self._table)).unsqueeze(0)  # (1, N)

    def build(self, history: History, now_ms: int) -> RankerBatch:
        """A batch with one user and all rows as candidates."""
        counts = self._purchases.popularity.counts(self._rows[0].numpy(), now_ms)
        user = RankedUser(history, Inferred(), now_ms, self._data.statistics)
        no_scores = torch.zeros(*self._rows.shape, 0)
        return build_batch([user], self._rows, counts[None], no_scores, self._table, self._data.config)
