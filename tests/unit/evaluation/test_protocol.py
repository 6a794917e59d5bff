"""The evaluation protocol: instances, candidate sets and features contain nothing from the future."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from evaluation.baselines.item_knn import ItemKnn
from evaluation.candidate_scorers import build_history_sequences
from evaluation.candidate_sets import (
    POPULARITY_MATCHED,
    POPULARITY_SAMPLED,
    REPEATS,
    TARGETS_LIMIT,
    UNIFORM,
    CandidateSets,
)
from evaluation.experiments.experiment import fit_statistics
from evaluation.instances import age_instances, build_candidate_mask, build_instances, to_times
from evaluation.negative_sampling import MATCHED_NEGATIVES, NEGATIVES, sample_new_item_sets, sample_repeat_sets
from evaluation.ranking_features import latest_before
from reaseq.aggregates import BUILT_IN, LoggedAggregates
from reaseq.behavior.examples import Basket
from reaseq.behavior.popularity import RecentSales
from reaseq.days import DAY_MS
from reaseq.ranker.item_statistics import ItemStatistics
from reaseq.ranker.training_data import purchases_in
from tests.fakes.catalog import NOW_MS
from tests.fakes.interactions import TABLE, build_log, change_log_from

LOG = build_log()
CUT_MS, END_MS = NOW_MS + 20 * DAY_MS, NOW_MS + 30 * DAY_MS
SALES = RecentSales.from_baskets(LOG.baskets, TABLE)
INSTANCES = build_instances(LOG, CUT_MS, END_MS)


def aggregates(baskets: Iterable[Basket]) -> LoggedAggregates:
    events = purchases_in(list(baskets))
    return LoggedAggregates(BUILT_IN, events, TABLE.rows(events.item_ids).numpy())


def test_targets_are_new_to_the_user_and_were_on_sale() -> None:
    bought: dict[str, set[str]] = {}
    wanted = {}
    for basket in LOG.baskets:
        wanted[basket.user_id, basket.time_ms] = set(basket.item_ids) - bought.setdefault(basket.user_id, set())
        bought[basket.user_id] |= set(basket.item_ids)

    assert len(INSTANCES) > 50
    for instance in INSTANCES:
        found = {TABLE.ids[row] for row in instance.targets}
        assert found == wanted[instance.basket.user_id, instance.basket.time_ms]
        assert max(instance.basket.history.times_ms) < instance.basket.time_ms


def test_candidate_mask_leaves_out_bought_items_and_keeps_targets() -> None:
    mask = build_candidate_mask(INSTANCES, TABLE)

    for row, instance in zip(mask, INSTANCES, strict=True):
        assert not row[0] and not row[torch.from_numpy(instance.bought)].any() and row[torch.from_numpy(instance.targets)].all()


def test_negatives_were_never_bought_and_matched_ones_sold_as_often() -> None:
    sets = sample_new_item_sets(INSTANCES, TABLE, SALES, seed=1)

    for index, (instance, rows, mask) in enumerate(zip(INSTANCES, sets.rows, sets.mask, strict=True)):
        assert set(rows[:TARGETS_LIMIT][mask[:TARGETS_LIMIT]].tolist()) == set(instance.targets.tolist())
        negatives = set(rows[TARGETS_LIMIT:][mask[TARGETS_LIMIT:]].tolist())
        assert not negatives & (set(instance.targets.tolist()) | set(instance.bought.tolist()) | {0})
        sold = SALES.counts(to_times([instance]))[0]
        for target in mask[:TARGETS_LIMIT].nonzero().flatten().tolist():
            for kind in (UNIFORM, POPULARITY_SAMPLED):
                assert (sets.negatives[kind][index, target] >= 0).sum() == NEGATIVES
            columns = sets.negatives[POPULARITY_MATCHED][index, target]
            matched = rows[columns[columns >= 0]]
            assert len(matched) in (0, MATCHED_NEGATIVES)
            assert (torch.log2(sold[matched] + 1).long() == torch.log2(sold[rows[target]] + 1).long()).all()


def test_repeats_compete_with_other_items_bought_before() -> None:
    chosen, sets = sample_repeat_sets(INSTANCES, TABLE, seed=1)

    assert len(chosen) == len(sets) > 10
    for index, instance in enumerate(chosen):
        targets = set(sets.targets[index].tolist()) - {0}
        assert targets == set(instance.repeats.tolist()[:TARGETS_LIMIT]) and targets <= set(instance.bought.tolist())
        columns = sets.negatives[REPEATS][index, 0]
        negatives = set(sets.rows[index, columns[columns >= 0]].tolist())
        assert negatives and negatives <= set(instance.bought.tolist()) - set(instance.repeats.tolist())
        trained = set(sets.rows[index, TARGETS_LIMIT:].tolist())
        assert not trained & (set(instance.targets.tolist()) | set(instance.repeats.tolist()))


def test_candidate_sets_rank_targets_among_their_own_negatives() -> None:
    mask = torch.ones(1, TARGETS_LIMIT + 3, dtype=torch.bool)
    mask[0, 2:TARGETS_LIMIT] = False
    columns = torch.tensor([TARGETS_LIMIT, TARGETS_LIMIT + 1, TARGETS_LIMIT + 2]).expand(1, TARGETS_LIMIT, -1).clone()
    columns[0, 1, 2] = -1
    sets = CandidateSets(torch.arange(TARGETS_LIMIT + 3).unsqueeze(0), mask, {UNIFORM: columns}, 3)
    scores = torch.tensor([[0.5, 0.1, *[9.0] * (TARGETS_LIMIT - 2), 0.7, 0.5, 0.2]])

    ranks, counts = sets.rank_targets(scores, UNIFORM)

    assert ranks[0, :2].tolist() == [2.5, 3.0] and np.isnan(ranks[0, 2:]).all() and counts[0, :2].tolist() == [3, 2]


@pytest.mark.parametrize("changed", ["later baskets", "the basket itself"])
def test_later_events_change_no_feature_of_an_instance(changed: str) -> None:
    instance = INSTANCES[0]
    other = change_log_from(LOG, instance.basket.time_ms + (1 if changed == "later baskets" else 0))
    sets = sample_new_item_sets([instance], TABLE, SALES, seed=1)
    times = [instance.basket.time_ms]

    before, after = (aggregates(log.baskets).evaluate(sets.rows.numpy(), np.array(times)[:, None]) for log in (LOG, other))
    rebuilt = build_instances(other, CUT_MS, END_MS)[0] if changed == "later baskets" else instance

    assert np.array_equal(before, after) and before.any()
    assert rebuilt.basket.history == instance.basket.history and rebuilt.bought.tolist() == instance.bought.tolist()


def test_item_statistics_are_of_the_log_before_the_latest_cut() -> None:
    cuts_ms = (CUT_MS - 10 * DAY_MS, CUT_MS)
    whole = fit_statistics(LOG, cuts_ms)
    until_cut = fit_statistics(change_log_from(LOG, CUT_MS), cuts_ms)
    until_day_before = fit_statistics(change_log_from(LOG, CUT_MS - DAY_MS), cuts_ms)

    def users(statistics: dict[int, ItemStatistics], time_ms: int) -> list[float] | None:
        found = latest_before(statistics, time_ms)
        return found.users.tolist() if found else None

    assert users(whole, cuts_ms[0] - 1) is None
    assert users(whole, CUT_MS) == users(whole, END_MS) == users(until_cut, END_MS) != users(until_day_before, END_MS)
    assert users(whole, CUT_MS - 1) == users(whole, cuts_ms[0]) == users(until_day_before, CUT_MS - 1)


def test_aged_features_contain_nothing_newer_than_their_age() -> None:
    age_ms = 3 * DAY_MS
    sets = sample_new_item_sets(INSTANCES, TABLE, SALES, seed=1)
    aged = age_instances(INSTANCES, age_ms)
    times = to_times(INSTANCES).tolist()

    assert any(len(a.basket.history.item_ids) < len(b.basket.history.item_ids) for a, b in zip(aged, INSTANCES, strict=True))
    for instance, old in zip(INSTANCES, aged, strict=True):
        until_ms, history = instance.basket.time_ms - age_ms, instance.basket.history
        kept = [item_id for item_id, time_ms in zip(history.item_ids, history.times_ms, strict=True) if time_ms < until_ms]
        assert old.basket.history.item_ids == tuple(kept) and old.basket.time_ms == instance.basket.time_ms
    one = sets[torch.tensor([5])]
    until_ms = times[5] - age_ms
    seen = aggregates(basket for basket in LOG.baskets if basket.time_ms < until_ms)
    assert np.array_equal(
        aggregates(LOG.baskets).evaluate(one.rows.numpy(), times[5], age_ms),
        seen.evaluate(one.rows.numpy(), times[5]),
    )


def test_item_knn_ignores_baskets_from_its_cut_on() -> None:
    earlier = tuple(basket for basket in LOG.baskets if basket.time_ms < CUT_MS)
    history = build_history_sequences(INSTANCES, LOG, 48)

    cut, never_saw = ItemKnn(LOG.baskets, TABLE, CUT_MS), ItemKnn(earlier, TABLE, 2**53)

    assert np.array_equal(cut.score_by_behavior(history), never_saw.score_by_behavior(history))
    whole = ItemKnn(LOG.baskets, TABLE, 2**53)
    assert not np.array_equal(cut.score_by_behavior(history), whole.score_by_behavior(history))


def test_log_before_a_cut_contains_nothing_after_it() -> None:
    assert all(basket.time_ms < CUT_MS for basket in LOG.between(0, CUT_MS))
