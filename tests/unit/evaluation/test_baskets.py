"""The basket task end to end: all models rank all products, and what comes after a basket changes nothing before it."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.baselines import lambdarank
from evaluation.baselines.lambdarank import LambdaRank
from evaluation.basket_report import build_report
from evaluation.experiments.baskets import PEERS, RANKER, BasketExperiment, run
from evaluation.judge import ALL, NEW, REPEATS, Judge
from evaluation.tally import ListResult
from reaseq.days import DAY_MS
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.training import RankerSample, RankerTrainingConfig, label_rates
from reaseq.ranker.training_data import RankerLog, build_training_data, purchases_in
from reaseq.records import Inferred
from tests.fakes.catalog import NOW_MS
from tests.fakes.interactions import TABLE, build_log, change_log_from

LOG = build_log(users=20, days=30)
DAYS = (8, 24, 28)
EXPERIMENT = BasketExperiment(LOG, *(NOW_MS + day * DAY_MS for day in DAYS))


@pytest.fixture(autouse=True)
def few_small_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambdarank, "ROUNDS", 5)
    monkeypatch.setitem(lambdarank.PARAMETERS, "min_data_in_leaf", 5)


def first_lists(judge: Judge, count: int) -> dict[str, list[ListResult]]:
    """The first results of each model on all targets."""
    return {model: tallies[ALL].lists[:count] for model, tallies in judge.tallies.items()}


def test_every_model_ranks_every_basket_and_the_future_changes_nothing() -> None:
    judge = run(EXPERIMENT, 0, lambda line: None)
    changed = replace(EXPERIMENT, log=change_log_from(LOG, EXPERIMENT.end_ms - 2 * DAY_MS))

    again = run(changed, 0, lambda line: None)

    baskets = LOG.between(EXPERIMENT.start_ms, EXPERIMENT.end_ms)
    unchanged = len(LOG.between(EXPERIMENT.start_ms, EXPERIMENT.end_ms - 2 * DAY_MS))
    assert judge.baskets == len(baskets) > unchanged > 0
    assert first_lists(judge, unchanged) == first_lists(again, unchanged)
    report = build_report(judge, RANKER, PEERS)
    assert set(report["models"]) == {RANKER, *PEERS}
    assert report["targets"][ALL] == report["targets"][NEW] + report["targets"][REPEATS] == 2 * len(baskets)
    gain, best = (
        report["gains_over_best_peer"][ALL]["gauc"],
        max(PEERS, key=lambda name: report["models"][name][ALL]["gauc"]["mean"]),
    )
    by_model = report["models"]
    assert gain["peer"] == best
    assert gain["mean"] == pytest.approx(by_model[RANKER][ALL]["gauc"]["mean"] - by_model[best][ALL]["gauc"]["mean"])


def test_lambdarank_learns_to_order_candidates() -> None:
    samples = RankerLog([RankerSample(basket, Inferred()) for basket in LOG.baskets], purchases_in(LOG.baskets))
    config = RankerConfig(vector_dim=TABLE.vectors.shape[1], claims=LOG.claims, inferred=0)
    data = build_training_data(samples, TABLE, None, config, RankerTrainingConfig(positives=4, popular_negatives=8))
    rates = label_rates(TABLE, TABLE.contents.claims, config.claims)

    trees = LambdaRank(data.train, TABLE, rates, seed=0)

    leads = []
    for row in data.train.positives.any(1).nonzero()[:50, 0]:
        exists = np.concatenate([data.train.positives[row].numpy(), data.train.negatives[row].numpy()])
        scores, labels = trees.score(data.train.batch[row[None]])[exists], data.train.labels[row].numpy()[exists]
        leads.append(scores[labels].mean() - scores[~labels].mean())
    assert np.mean(leads) > 0
