"""The item statistics that a training basket is ranked with come from before it."""

from reaseq.behavior.examples import Basket
from reaseq.ranker.training import RankerSample
from reaseq.ranker.training_data import STATISTICS_PERIOD_MS, RankerLog
from reaseq.records import History, Inferred

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
