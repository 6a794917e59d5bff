"""A log as training data: statistics from before each basket, the latest baskets, and rankers that read less."""

from dataclasses import replace

import pytest
import torch

from reaseq.behavior.examples import Basket
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.training import RankerSample, RankerTrainingConfig
from reaseq.ranker.training_data import (
    STATISTICS_PERIOD_MS,
    RankerLog,
    RankerTrainingData,
    build_training_data,
    purchases_in,
)
from reaseq.records import History, Inferred
from tests.fakes.interactions import TABLE, build_log

START_MS = 10 * STATISTICS_PERIOD_MS
LESS = RankerConfig(vector_dim=0, inferred=0)
NO_EVENTS = purchases_in([])


def sample(number: int, time_ms: int) -> RankerSample:
    return RankerSample(Basket(f"u{number}", time_ms, ("i", f"i{number}"), History()), Inferred())


def test_statistics_are_of_the_log_before_the_period_of_the_basket() -> None:
    log = RankerLog([sample(number, START_MS + number * STATISTICS_PERIOD_MS // 4) for number in range(-6, 12)], NO_EVENTS)

    chosen = log.since(START_MS)

    assert [added.basket for added in chosen] == [one.basket for one in log.samples[6:]]
    for index, added in enumerate(chosen):
        before = 6 + index // 4 * 4  # baskets before the period, of which each has another user
        assert added.statistics and float(added.statistics.users.max()) == before
        assert added.basket.item_ids[1] not in added.statistics.ids.item_ids


def test_first_period_of_a_log_has_no_statistics() -> None:
    chosen = RankerLog([sample(1, START_MS), sample(2, START_MS + STATISTICS_PERIOD_MS)], NO_EVENTS).since(0)

    assert chosen[0].statistics is None and chosen[1].statistics


def build_data(config: RankerConfig) -> RankerTrainingData:
    baskets = build_log(users=6, days=20).baskets
    log = RankerLog([RankerSample(basket, Inferred()) for basket in baskets], purchases_in(baskets))
    training = RankerTrainingConfig(positives=3, uniform_negatives=8, popular_negatives=8, own_negatives=4)
    return build_training_data(log, TABLE, None, config, training)


def test_latest_tenth_is_held_out_and_the_latest_fifth_is_caught_up_on() -> None:
    data = build_data(LESS)

    held_out, every = len(data.held_out), len(data.examples)
    assert held_out == pytest.approx(every / 10, abs=3) and len(data.train) == every - held_out
    assert torch.equal(data.latest.batch.now_ms, data.examples.batch.now_ms[-2 * held_out :])
    assert data.train.batch.now_ms.max() < data.held_out.batch.now_ms.min()


def test_data_restricted_to_a_ranker_without_scores_has_none() -> None:
    built = build_data(LESS)
    batch = built.examples.batch
    with_scores = replace(batch, numbers=torch.cat([batch.numbers, torch.ones_like(batch.numbers[..., :2])], -1))
    more = replace(built, examples=replace(built.examples, batch=with_scores), config=replace(built.config, width=8, scores=2))

    restricted = more.restricted_to(LESS)

    assert restricted.config == built.config and built.config.items > 1
    assert torch.equal(restricted.train.batch.numbers.nan_to_num(-1), built.train.batch.numbers.nan_to_num(-1))
