"""The protocol that inferred behaviours are judged by: nothing of the future leaks into it, and its figures are right."""

import numpy as np
import pytest
import torch

from reaseq.behavior.examples import Basket
from reaseq.behavior.history import event_key
from reaseq.behavior.popularity import RecentSales
from reaseq.behavior.sequence import sequences_of
from reaseq.days import DAY_MS
from reaseq.evaluation.intervals import interval
from reaseq.evaluation.item_knn import ItemKnn
from reaseq.evaluation.log import Log
from reaseq.evaluation.slots import EACH, MATCHED, POSITIVES, draw_candidates, moments_of, open_to, request_of
from reaseq.records import History
from tests.unit.catalogue_stand_ins import CATALOGUE, NOW_MS, VOCABULARY

TABLE = CATALOGUE.snapshot.by_id()


def log_of(users: int = 30, days: int = 40) -> Log:
    """Users who buy two random items every other day, each basket with the history before it."""
    generator = np.random.default_rng(0)
    baskets = []
    held: dict[str, list[tuple[str, int]]] = {}
    for day in range(days):
        for user in range(day % 2, users, 2):
            time_ms = NOW_MS + day * DAY_MS + user
            item_ids = tuple(f"i{n}" for n in generator.choice(60, 2, replace=False))
            before = held.setdefault(f"u{user}", [])
            history = History(
                item_ids=tuple(i for i, _ in before),
                types=(4,) * len(before),
                times_ms=tuple(t for _, t in before),
                event_keys=tuple(event_key(f"{i}{t}") for i, t in before),
            )
            baskets.append(Basket(f"u{user}", time_ms, item_ids, history))
            before += [(item_id, time_ms) for item_id in item_ids]
    return Log("made up", TABLE, VOCABULARY.size, tuple(baskets))


LOG = log_of()
CUT_MS = NOW_MS + 20 * DAY_MS
SALES = RecentSales([(b.time_ms, i) for b in LOG.baskets for i in b.item_ids], TABLE)
MOMENTS = moments_of(LOG, CUT_MS, NOW_MS + 30 * DAY_MS)


def test_targets_are_new_to_the_user_and_were_on_sale() -> None:
    bought: dict[str, set[str]] = {}
    wanted = {}
    for basket in LOG.baskets:
        wanted[basket.user_id, basket.time_ms] = set(basket.item_ids) - bought.setdefault(basket.user_id, set())
        bought[basket.user_id] |= set(basket.item_ids)

    assert len(MOMENTS) > 50
    for moment in MOMENTS:
        found = {TABLE.ids[row] for row in moment.targets}
        assert found == wanted[moment.basket.user_id, moment.basket.time_ms]
        assert max(moment.basket.history.times_ms) < moment.basket.time_ms


def test_what_may_be_given_is_on_sale_and_not_had_before() -> None:
    allowed = open_to(MOMENTS, TABLE)

    for row, moment in zip(allowed, MOMENTS, strict=True):
        assert not row[0] and not row[torch.from_numpy(moment.bought)].any() and row[torch.from_numpy(moment.targets)].all()


def test_negatives_were_not_bought_and_matched_ones_sold_as_often() -> None:
    lists = draw_candidates(MOMENTS, TABLE, SALES, seed=1)

    for moment, rows, real, matched in zip(MOMENTS, lists.rows, lists.real, lists.matched, strict=True):
        assert set(rows[:POSITIVES][real].tolist()) == set(moment.targets.tolist())
        negatives = set(rows[POSITIVES : POSITIVES + 2 * EACH].tolist())
        assert not negatives & (set(moment.targets.tolist()) | set(moment.bought.tolist()) | {0})
        sold = SALES.counts(torch.tensor([moment.basket.time_ms]))[0]
        for place in matched.nonzero().flatten().tolist():
            first = POSITIVES + 2 * EACH + place * MATCHED
            buckets = torch.log2(sold[rows[first : first + MATCHED]] + 1).long()
            assert (buckets == torch.log2(sold[rows[place]] + 1).long()).all()


@pytest.mark.parametrize("changed", ["later baskets", "the basket itself"])
def test_no_feature_of_a_moment_changes_with_what_came_later(changed: str) -> None:
    moment = MOMENTS[0]
    from_ms = moment.basket.time_ms + (1 if changed == "later baskets" else 0)
    other = Log(
        LOG.name,
        TABLE,
        LOG.claims,
        tuple(b if b.time_ms < from_ms else Basket(b.user_id, b.time_ms, ("i7", "i9"), b.history) for b in LOG.baskets),
    )
    sales = RecentSales([(b.time_ms, i) for b in other.baskets for i in b.item_ids], TABLE)
    lists = draw_candidates([moment], TABLE, SALES, seed=1)

    before, after = (request_of([moment], lists, TABLE, counted) for counted in (SALES, sales))

    assert torch.equal(before.counts, after.counts) and torch.equal(before.history.rows, after.history.rows)


def test_item_knn_counts_nothing_from_its_cut_on() -> None:
    earlier = tuple(b for b in LOG.baskets if b.time_ms < CUT_MS)
    history = sequences_of([m.basket.history for m in MOMENTS], [m.basket.time_ms for m in MOMENTS], TABLE, 48)

    cut, never_saw = ItemKnn(LOG.baskets, TABLE, CUT_MS), ItemKnn(earlier, TABLE, 2**53)

    assert np.array_equal(cut.by_behavior(history), never_saw.by_behavior(history))
    assert not np.array_equal(cut.by_behavior(history), ItemKnn(LOG.baskets, TABLE, 2**53).by_behavior(history))


def test_material_before_a_cut_holds_nothing_after_it() -> None:
    assert all(basket.time_ms < CUT_MS for basket in LOG.between(0, CUT_MS))


def test_an_interval_holds_the_mean_and_widens_with_the_spread_between_seeds() -> None:
    generator = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 5)
    same = [generator.normal(1.0, 0.1, 500).astype(np.float32) for _ in range(3)]
    apart = [values + offset for values, offset in zip(same, (-0.3, 0.0, 0.3), strict=True)]
    apart[0][:50] = np.nan

    narrow, wide = interval(same, users), interval(apart, users)

    assert narrow.low < narrow.mean < narrow.high and narrow.mean == pytest.approx(1.0, abs=0.02)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
