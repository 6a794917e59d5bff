"""Own-item features, by hand on a short history."""

import numpy as np
import pytest

from reaseq.days import DAY_MS
from reaseq.ranker.own_items import OWN_FEATURES, OwnItem, own_items
from reaseq.records import History
from tests.fakes.catalog import NOW_MS, build_table, item

TABLE = build_table(*(item(number, price=float(number)) for number in range(5)), item(5, price=None)).snapshot


def history(*behaviors: tuple[int, float]) -> History:
    """Behaviors as (item number, age in days), the oldest first."""
    return History(
        item_ids=tuple(f"i{number}" for number, _ in behaviors),
        types=(4,) * len(behaviors),
        times_ms=tuple(NOW_MS - int(age_days * DAY_MS) for _, age_days in behaviors),
        event_keys=tuple(range(len(behaviors))),
    )


def features(known: History, number: int) -> OwnItem:
    rows = TABLE.rows([f"i{number}"]).numpy()
    return OwnItem(*(float(value) for value in own_items(known, NOW_MS, rows, TABLE)[0]))


BOUGHT = history((1, 30), (2, 30), (1, 10), (3, 10), (4, 3))


def test_item_that_the_user_took_twice() -> None:
    own = features(BOUGHT, 1)

    assert (own.behaviors, own.days_since_first, own.days_since_last, own.moments_since_last) == (2, 30, 10, 2)
    assert own.behaviors_30d == pytest.approx(2**-1 + 2 ** (-10 / 30), rel=1e-5)
    assert own.share == pytest.approx(2 / 3)  # of three moments
    assert own.lateness == pytest.approx(10 / 20)  # ten days after the last of an interval of twenty


def test_item_that_the_user_never_took_has_counts_of_zero_and_no_times() -> None:
    own = features(history((1, 1)), 2)

    assert (own.behaviors, own.behaviors_7d, own.share) == (0, 0, 0)
    assert np.isnan([own.days_since_last, own.days_since_first, own.moments_since_last, own.lateness]).all()
    assert own.price_ratio == pytest.approx(np.log(3 / 2))


def test_user_features_do_not_depend_on_the_candidate() -> None:
    for number in range(5):
        own = features(BOUGHT, number)
        assert (own.moments, own.items, own.days_idle) == (3, 4, 3)
        assert own.moment_size == pytest.approx(5 / 3)


def test_items_that_the_table_does_not_know_are_no_candidates_own_items() -> None:
    known = history((99, 2), (1, 1))
    unknown = own_items(known, NOW_MS, np.array([0]), TABLE)[0]

    assert OwnItem(*unknown).behaviors == 0
    assert features(known, 1).moments == 2


def test_unknown_prices_give_no_ratio() -> None:
    assert np.isnan(features(history((5, 1)), 1).price_ratio) and np.isnan(features(BOUGHT, 5).price_ratio)


def test_no_feature_comes_from_after_the_ranking() -> None:
    rows = TABLE.rows(["i1", "i2"]).numpy()
    late = own_items(history((1, 5), (1, -1)), NOW_MS, rows, TABLE)
    assert late.shape == (2, OWN_FEATURES) and late[0, OwnItem._fields.index("days_since_last")] == 0
