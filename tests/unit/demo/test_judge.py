"""The demo's judge and its tallies."""

import numpy as np

from demo.judge import ALL, ALL_UNSEEN, NEW, NEW_UNSEEN, POPULAR, Assortment, Judge
from demo.tally import LabeledCandidates, MetricTally
from evaluation.datasets.online_retail import Order
from reaseq.records import Event


def build_order(time_ms: int, *item_ids: str) -> Order:
    events = (
        Event(event_id=f"{time_ms}-{i}", user_id="u", item_id=i, type="purchase", event_time_ms=time_ms) for i in item_ids
    )
    return Order("u", time_ms, tuple(events))


def test_tally_is_the_mean_over_targets_and_matches_popularity() -> None:
    tally = MetricTally(cutoff=1)
    scores = np.array([3.0, 1.0, 2.0, 0.0], np.float32)
    targets, negatives = np.array([1, 1, 0, 0], bool), np.array([0, 0, 1, 1], bool)

    tally.add(0, scores, LabeledCandidates(targets, negatives, np.array([0, 1, 1, 0])))

    assert tally.hit_rate == 0.5
    assert tally.gauc == 0.75
    assert tally.gauc_matched == 0.5  # within its bucket the first target outranks the negative, the second does not
    assert tally.by_day == {0: [1.0, 2.0]}
    assert MetricTally().gauc is None and MetricTally().hit_rate is None and MetricTally().gauc_matched is None


def test_judge_slices_targets_by_customer_and_by_training() -> None:
    judge = Judge(trained={"a", "b"}, earlier=[build_order(1, "a")])
    on_sale = np.array([False, True, True, True, True])  # row 0 is the unknown item
    assortment = Assortment(["", "a", "b", "c", "d"], on_sale, np.zeros(5, np.float32))

    judge.judge(build_order(2, "a", "c"), assortment, {POPULAR: judge.count_sales(assortment.ids)})

    targets = {name: tally.targets for model, name, tally in judge.table() if model == POPULAR}
    assert targets == {ALL: 2, NEW: 1, ALL_UNSEEN: 1, NEW_UNSEEN: 1}
    assert judge.tallies[POPULAR][ALL].gauc == (1.0 + 0.5) / 2  # "a" sold before, "c" ties with the negatives
