"""The demo's task on the log alone: ranker and peers rank every product on sale before each basket of the last two weeks.

Baskets and products are those of the demo. The ranker's features are the demo's too, without inferred behaviors, which need the
behavior models that the demo trains. Everything was chosen on the two weeks before, which `validation` ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluation.baselines.als import Als
from evaluation.baselines.cheap import EASE, PERSONAL, TIFU, fit_cheap
from evaluation.baselines.lambdarank import LambdaRank
from evaluation.baselines.purchases import Purchases, Scores
from evaluation.baselines.up_cf import UpCf
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.experiments.online_retail import VOCABULARY, load_log
from evaluation.judge import Assortment, Judge
from reaseq.aggregates import BUILT_IN, LoggedAggregates
from reaseq.days import time_ms
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.ranker.batch import RankedUser, build_batch
from reaseq.ranker.model import RankerBatch, RankerConfig
from reaseq.ranker.training import RankerSample, RankerTrainingConfig, catch_up, embedded, label_rates, train
from reaseq.ranker.training_data import RankerLog, RankerTrainingData, build_training_data, purchases_in
from reaseq.records import History, Inferred
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import Snapshot

RANKER, UP_CF, ALS, LAMBDARANK = "ranker", "UP-CF, sales", "ALS, bought before, sales", "LightGBM lambdarank"
PEERS = (PERSONAL, EASE, TIFU, UP_CF, ALS, LAMBDARANK)
TRAIN_DAY, VALIDATION_DAY, TEST_DAY, END_DAY = "2011-06-01", "2011-11-11", "2011-11-25", "2011-12-31"
HISTORY = 512  # behaviors of a user, as in the feature store
ATTENDED = 64  # of them, that attention reads

ScoreBatch = Callable[[RankerBatch], Scores]  # a batch of one user and every row of the item table → the rows' scores


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
    report("fitting the cheap peers, UP-CF and ALS")
    items = len(table)
    baselines = {**fit_cheap(purchases, items), UP_CF: UpCf(purchases, items), ALS: Als(purchases, items, seed=seed)}
    report("building the ranker's training data")
    training = RankerTrainingConfig(seed=seed)
    data = _build_data(experiment, training)
    report("training the ranker")
    learned = {RANKER: _train_ranker(table, data, training)}
    report("training LightGBM")
    learned[LAMBDARANK] = LambdaRank(
        data.examples, table, label_rates(table, table.contents.claims, data.config.claims), seed
    ).score
    report("ranking")
    trained = {item_id for basket in earlier for item_id in basket.item_ids}
    judge = Judge((*learned, *baselines), trained, earlier)
    inputs = _Inputs(log, data)
    for basket in log.between(experiment.start_ms, experiment.end_ms):
        user_id, now_ms = basket.user_id, basket.time_ms
        on_sale = (table.live & (table.listed_ms < now_ms)).numpy()
        batch, sold = inputs.build(basket.history, now_ms)
        scores = {name: score(batch) for name, score in learned.items()}
        scores |= {name: baseline.score(user_id, now_ms, items) for name, baseline in baselines.items()}
        judge.judge(basket, Assortment(table.ids, on_sale, sold), scores)
        judge.learn(basket)
        purchases.add(user_id, now_ms, table.rows(basket.item_ids).numpy())
    return judge


def _build_data(experiment: BasketExperiment, training: RankerTrainingConfig) -> RankerTrainingData:
    log = experiment.log
    samples = [RankerSample(basket, Inferred()) for basket in log.between(0, experiment.start_ms)]
    dimensions = log.table.contents.vectors.shape[1]
    config = RankerConfig(vector_dim=dimensions, claims=log.claims, history=ATTENDED, inferred=0)
    ranker_log = RankerLog(samples, purchases_in(log.between(0, experiment.start_ms)))
    return build_training_data(ranker_log, log.table, None, config, training, experiment.since_ms)


def _train_ranker(table: Snapshot, data: RankerTrainingData, training: RankerTrainingConfig) -> ScoreBatch:
    model, _ = train(data.train, data.held_out, table, data.ids, data.config, training)
    catch_up(model, data.latest, table, data.ids, training)
    with torch.inference_mode():
        items = embedded(model, table, data.ids.number_rows(table, table.rows_of_slots))

    @torch.inference_mode()
    def score(batch: RankerBatch) -> Scores:
        scores: Scores = model(batch, items)[0].numpy()
        return scores

    return score


class _Inputs:
    """What the learned models read of every row for one user."""

    def __init__(self, log: InteractionLog, data: RankerTrainingData) -> None:
        events = purchases_in(log.baskets)
        self._aggregates = LoggedAggregates(BUILT_IN, events, log.table.rows(events.item_ids).numpy())
        self._table, self._data = log.table, data
        self._rows = torch.arange(len(log.table)).unsqueeze(0)  # (1, N)

    def build(self, history: History, now_ms: int) -> tuple[RankerBatch, Scores]:
        """A batch with one user and all rows as candidates, and the rows' sales (N,), decayed with a half-life of 30 days."""
        counts = self._aggregates.evaluate(self._rows[0].numpy(), now_ms)
        user = RankedUser(history, Inferred(), now_ms, self._data.statistics)
        no_scores = torch.zeros(*self._rows.shape, 0)
        batch = build_batch([user], self._rows, counts[None], no_scores, self._table, self._data.config)
        return batch, counts[:, -1]
