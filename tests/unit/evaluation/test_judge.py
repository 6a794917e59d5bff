"""The judge and its tallies."""

import numpy as np
import pytest

from evaluation.datasets.online_retail import Order
from evaluation.judge import ALL, ALL_UNSEEN, NEW, NEW_UNSEEN, REPEATS, Assortment, Judge
from evaluation.tally import LabeledCandidates, MetricTally
from reaseq.records import Event

POPULAR = "popularity"


def build_order(time_ms: int, *item_ids: str) -> Order:
    events = (
        Event(event_id=f"{time_ms}-{i}", user_id="u", item_id=i, type="purchase", event_time_ms=time_ms) for i in item_ids
    )
    return Order("u", time_ms, tuple(events))


def build_tally(*lists: tuple[list[float], int]) -> MetricTally:
    """Lists of four items, of which the first ones are targets."""
    tally = MetricTally()
    for scores, targets in lists:
        is_target = np.arange(4) < targets
        tally.add(0, np.array(scores, np.float32), LabeledCandidates(is_target, ~is_target, np.array([0, 1, 1, 0])))
    return tally


def mean(tally: MetricTally, metric: str) -> float | None:
    estimate = tally.measure(metric)
    return estimate.mean if estimate else None


def test_tally_is_the_mean_over_targets_and_matches_popularity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.tally.CUTOFF", 1)
    tally = build_tally(([3.0, 1.0, 2.0, 0.0], 2))

    assert mean(tally, "hr_10") == 0.5
    assert mean(tally, "gauc") == 0.75
    assert mean(tally, "gauc_matched") == 0.5  # within its bucket the first target outranks the negative, the second does not
    assert tally.hits_by_day() == {0: (1.0, 2)}
    assert MetricTally().measure("gauc") is None


def test_ndcg_is_the_mean_over_lists() -> None:
    tally = build_tally(([3.0, 1.0, 2.0, 0.0], 2), ([1.0, 0.0, 0.0, 0.0], 1))

    second_place = (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3))  # the targets are in places 1 and 3
    assert mean(tally, "ndcg_10") == pytest.approx((second_place + 1) / 2)


def test_gain_over_a_baseline_is_paired_by_list() -> None:
    better = build_tally(*(([3.0, 1.0, 2.0, 0.0], 1), ([1.0, 2.0, 0.0, 0.0], 1)) * 20)
    worse = build_tally(*(([1.0, 2.0, 0.0, 0.0], 1), ([1.0, 2.0, 3.0, 0.0], 1)) * 20)

    gain = better.measure("gauc", worse)

    assert gain and gain.mean == pytest.approx(1 / 3) and gain.low == pytest.approx(1 / 3) == pytest.approx(gain.high)


def test_judge_slices_targets_by_customer_and_by_training() -> None:
    judge = Judge([POPULAR], trained={"a", "b"}, earlier=[build_order(1, "a")])
    on_sale = np.array([False, True, True, True, True])  # row 0 is the unknown item
    assortment = Assortment(["", "a", "b", "c", "d"], on_sale, np.zeros(5, np.float32))

    judge.judge(build_order(2, "a", "c"), assortment, {POPULAR: judge.count_sales(assortment.ids)})

    targets = {name: tally.targets for model, name, tally in judge.table() if model == POPULAR}
    assert targets == {ALL: 2, NEW: 1, REPEATS: 1, ALL_UNSEEN: 1, NEW_UNSEEN: 1}
    assert mean(judge.tallies[POPULAR][ALL], "gauc") == (1.0 + 0.5) / 2  # "a" sold before, "c" ties with the negatives
