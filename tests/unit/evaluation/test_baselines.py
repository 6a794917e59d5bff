"""The baselines of the basket task, by hand on a few baskets."""

import numpy as np
import pytest

from evaluation.baselines.als import Als
from evaluation.baselines.ease import Ease
from evaluation.baselines.personal_frequency import PersonalFrequency
from evaluation.baselines.purchases import Purchases
from evaluation.baselines.tifu_knn import TifuKnn
from evaluation.baselines.up_cf import UpCf
from reaseq.days import DAY_MS

NOW_MS = 1000 * DAY_MS
ITEMS = 6


def purchases(*baskets: tuple[str, float, list[int]]) -> Purchases:
    """Baskets as (user, age in days, rows), the oldest first."""
    log = Purchases()
    for user_id, age_days, rows in sorted(baskets, key=lambda basket: -basket[1]):
        log.add(user_id, NOW_MS - int(age_days * DAY_MS), np.array(rows))
    return log


def test_purchases_leave_out_unknown_items_and_count_an_item_once_per_basket() -> None:
    log = purchases(("u", 1, [0, 2, 2]), ("v", 1, [2, 3]))

    assert [rows.tolist() for _, rows in log.of_user("u")] == [[2]]
    assert log.of_user("nobody") == ()
    assert log.weekly_sales(NOW_MS, ITEMS) == pytest.approx([0, 0, 1, 0.5, 0, 0])
    assert log.users_items(ITEMS).toarray().tolist() == [[0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]]


def test_personal_frequency_ranks_own_items_first_and_the_rest_by_sales() -> None:
    log = purchases(("u", 180, [1]), ("u", 0, [2]), ("v", 7, [3, 4]), ("w", 0, [4]))

    scores = PersonalFrequency(log, half_life_days=180.0, sales_weight=0.1).score("u", NOW_MS, ITEMS)

    assert scores[2] > scores[1] > scores[4] > scores[3] > scores[5] == 0
    assert scores[1] == pytest.approx(0.5, abs=1e-4)


def test_ease_scores_items_that_came_after_the_fit_by_frequency_and_sales_alone() -> None:
    log = purchases(("u", 3, [1]), ("v", 2, [1, 2]), ("w", 2, [1, 2]))
    ease = Ease(log, 3, regularization=1.0)
    log.add("v", NOW_MS, np.array([5]))

    scores = ease.score("u", NOW_MS, ITEMS)

    assert scores[2] > scores[5] > scores[3] == scores[4] == 0


def test_tifu_knn_weighs_late_baskets_and_groups_more_and_learns_from_neighbors() -> None:
    log = purchases(("u", 3, [1]), ("u", 2, [2]), ("u", 1, [3]), ("v", 2, [3, 4]), ("w", 2, [4, 5]))
    tifu = TifuKnn(log, ITEMS, group_baskets=2, basket_decay=0.5, group_decay=0.1, neighbors=1, own_share=0.9, sales_weight=0.0)

    scores = tifu.score("u", NOW_MS, ITEMS)

    # Groups [1] and [2, 3]: item 1 weighs 0.1, item 2 half of 0.5, item 3 half of 1, all halved by the number of groups.
    own = np.array([0, 0.05, 0.125, 0.25, 0, 0])
    assert scores - 0.9 * own == pytest.approx(np.array([0, 0, 0, 0.1, 0.1, 0]), abs=1e-6)  # v is nearer than w


def test_first_basket_of_a_user_is_ranked_by_sales() -> None:
    log = purchases(("v", 1, [2, 3]), ("w", 1, [3]))
    for baseline in (PersonalFrequency(log), Ease(log, ITEMS), UpCf(log, ITEMS), Als(log, ITEMS, factors=2)):
        assert np.argsort(-baseline.score("new", NOW_MS, ITEMS))[:2].tolist() == [3, 2]


def test_up_cf_looks_at_the_latest_baskets_and_weighs_users_by_a_power_of_their_similarity() -> None:
    log = purchases(("u", 3, [4]), ("u", 2, [1]), ("u", 1, [1, 2]), ("v", 2, [1, 3]), ("w", 2, [2, 3, 5]))

    scores = UpCf(log, ITEMS, recent_baskets=2, locality=2.0, asymmetry=0.5, sales_weight=0.0).score("u", NOW_MS, ITEMS)

    # u is (1: 1, 2: ½), since item 4 is too far back; the cosines with v and w are 1 / √2.5 and ½ / √3.75, here squared.
    v, w = 1 / 2.5, 0.25 / 3.75
    assert scores * (1 + v + w) == pytest.approx([0, 1 + v, 0.5 + w, v + w, 0, w], abs=1e-5)


def test_up_cf_knows_a_user_that_came_after_the_fit() -> None:
    log = purchases(("v", 2, [1, 3]), ("w", 2, [2, 4]))
    up_cf = UpCf(log, ITEMS, sales_weight=0.0)
    log.add("u", NOW_MS, np.array([1]))

    assert np.flatnonzero(up_cf.score("u", NOW_MS, ITEMS)).tolist() == [1, 3]


def test_als_ranks_what_similar_users_bought_and_solves_for_a_user_that_came_after_the_fit() -> None:
    users = [(f"a{n}", 1.0, [1, 2, 3]) for n in range(8)] + [(f"b{n}", 1.0, [4, 5]) for n in range(8)]
    log = purchases(*users)
    als = Als(log, ITEMS, factors=2, frequency_weight=0.0, sales_weight=0.0)
    log.add("u", NOW_MS, np.array([1, 2]))

    scores = als.score("u", NOW_MS, ITEMS + 1)

    assert scores[3] > 0.5 > abs(scores[4]) and scores[ITEMS] == 0  # the last item came after the fit
