"""Item statistics: the weights solve their equation, and a round trip through an artifact keeps them."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from reaseq.artifacts import publish
from reaseq.behavior.history import Behavior, build_history
from reaseq.ranker.item_statistics import ItemNumbers, fit, fit_weights, load_statistics, save_statistics
from tests.fakes.catalog import NOW_MS, build_table, item

TABLE = build_table(*(item(number) for number in range(6))).snapshot
MOMENTS = [("u", ["i1", "i2"]), ("v", ["i1", "i2", "i2"]), ("v", ["i2"]), ("w", ["i3", "i4"]), ("x", ["i1", "i3"])]


def numbers(number: int, *taken: tuple[str, int]) -> ItemNumbers:
    """The numbers of an item for a user who took items (id, time in ms)."""
    history = build_history(Behavior(time_ms, 0, item_id, 4) for item_id, time_ms in taken)
    rows = TABLE.rows([f"i{number}"]).numpy()
    return ItemNumbers(*(float(value) for value in fit(MOMENTS).numbers(history, NOW_MS, rows, TABLE)[0]))


def test_weights_solve_the_regularized_regression() -> None:
    taken = np.random.default_rng(0).random((30, 5)) < 0.4
    weights = fit_weights(sp.csr_matrix(taken.astype(np.float32)), 2.0).astype(float)

    bought = taken.astype(float)
    gradient = bought.T @ (bought @ weights - bought) + 2.0 * weights
    assert np.diag(weights).tolist() == [0.0] * 5
    assert gradient[~np.eye(5, dtype=bool)] == pytest.approx(0, abs=1e-4)


def test_users_and_the_share_of_those_who_came_back() -> None:
    assert (numbers(2).users, numbers(2).again_share) == (2, 0.5)  # twice in one moment is once
    assert (numbers(4).users, numbers(4).again_share) == (1, 0)


def test_items_taken_together_raise_each_other() -> None:
    with_partner, with_other = numbers(2, ("i1", NOW_MS)), numbers(4, ("i1", NOW_MS))

    assert with_partner.together > with_other.together
    assert with_partner.together == with_partner.together_60d == with_partner.together_latest


def test_only_the_latest_moment_counts_in_its_sum_and_older_ones_decay() -> None:
    then = NOW_MS - 60 * 86_400_000
    own = numbers(2, ("i1", then), ("i5", NOW_MS))

    assert own.together_60d == pytest.approx(own.together / 2)
    assert own.together_latest == 0


def test_item_without_statistics_and_user_without_history_are_unknown() -> None:
    assert np.isnan(numbers(5, ("i1", NOW_MS))).all()
    alone = numbers(2)
    assert np.isnan([alone.together, alone.together_60d, alone.together_latest]).all() and alone.users == 2


def test_statistics_survive_publication(tmp_path: Path) -> None:
    statistics = fit(MOMENTS)
    loaded = load_statistics(publish(tmp_path, "ranker", "v", save_statistics(statistics), {}))

    assert loaded.ids.item_ids == statistics.ids.item_ids
    for name in ("neighbors", "weights", "users", "again_share"):
        assert np.array_equal(getattr(loaded, name), getattr(statistics, name))
