"""The item statistics of a training basket come from before it, and rankers that read less share the data."""

from dataclasses import replace

import torch

from reaseq.behavior.examples import Basket
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.training import RankerExamples, RankerSample, RankerTrainingConfig
from reaseq.ranker.training_data import STATISTICS_PERIOD_MS, RankerLog, build_training_data
from reaseq.records import History, Inferred
from tests.fakes.interactions import TABLE, build_log

START_MS = 10 * STATISTICS_PERIOD_MS


def sample(number: int, time_ms: int) -> RankerSample:
    return RankerSample(Basket(f"u{number}", time_ms, ("i", f"i{number}"), History()), Inferred())


def test_statistics_are_of_the_log_before_the_period_of_the_basket() -> None:
    log = RankerLog([sample(number, START_MS + number * STATISTICS_PERIOD_MS // 4) for number in range(-6, 12)])

    chosen = log.since(START_MS)

    assert [added.basket for added in chosen] == [one.basket for one in log.samples[6:]]
    for index, added in enumerate(chosen):
        before = 6 + index // 4 * 4  # baskets before the period, of which each has another user
        assert added.statistics and float(added.statistics.users.max()) == before
        assert added.basket.item_ids[1] not in added.statistics.ids.item_ids


def test_first_period_of_a_log_has_no_statistics() -> None:
    chosen = RankerLog([sample(1, START_MS), sample(2, START_MS + STATISTICS_PERIOD_MS)]).since(0)

    assert chosen[0].statistics is None and chosen[1].statistics


def add_scores(examples: RankerExamples) -> RankerExamples:
    """The examples with two scores of each candidate by other models."""
    numbers = examples.batch.numbers
    return replace(examples, batch=replace(examples.batch, numbers=torch.cat([numbers, torch.ones_like(numbers[..., :2])], -1)))


def test_data_restricted_to_a_ranker_without_scores_have_none() -> None:
    log = RankerLog([RankerSample(basket, Inferred()) for basket in build_log(users=6, days=20).baskets])
    training = RankerTrainingConfig(positives=3, uniform_negatives=8, popular_negatives=8, own_negatives=4)
    less = RankerConfig(vector_dim=0, inferred=0)
    built = build_training_data(log, TABLE, None, less, training)
    more = replace(
        built, train=add_scores(built.train), held_out=add_scores(built.held_out), config=replace(built.config, scores=2)
    )

    restricted = more.restricted_to(less)

    assert restricted.config == built.config and built.config.items > 1
    for ours, theirs in ((restricted.train, built.train), (restricted.held_out, built.held_out)):
        assert torch.equal(ours.batch.numbers.nan_to_num(-1), theirs.batch.numbers.nan_to_num(-1))
