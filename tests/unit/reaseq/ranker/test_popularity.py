"""Popularity: decaying counts equal a recount, in any order of arrival and from any thread."""

import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reaseq.days import DAY_MS
from reaseq.ranker import popularity as popularity_module
from reaseq.ranker.popularity import HALF_LIVES_DAYS, SPAN_DAYS, Popularity
from tests.fakes.catalog import ITEMS, NOW_MS

BATCHES = 300


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(900, 2500), st.integers(0, 30)), max_size=60))
@settings(max_examples=80)
def test_counts_equal_a_recount_with_late_and_repeated_events(seen: list[tuple[int, int, int]]) -> None:
    popularity = Popularity()
    for row, day, key in seen:
        popularity.observe(np.array([row]), [day * DAY_MS + key], [key])

    now_ms = 2600 * DAY_MS
    first: dict[int, tuple[int, int]] = {}
    for row, day, key in seen:
        first.setdefault(key, (row, day * DAY_MS + key))
    counts = popularity.counts(np.arange(6), now_ms)
    for row in range(6):
        ages = [(now_ms - time_ms) / DAY_MS for event_row, time_ms in first.values() if event_row == row != 0]
        expected = [sum(2 ** (-age / half_life) for age in ages) for half_life in HALF_LIVES_DAYS]
        assert np.allclose(counts[row], expected, rtol=1e-4, atol=1e-30)


def test_repeated_event_is_recognized_among_the_remembered_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(popularity_module, "REMEMBERED_EVENTS", 10)
    popularity = Popularity()
    popularity.observe(np.ones(20, np.int64), [NOW_MS] * 20, list(range(20)))
    popularity.observe(np.ones(2, np.int64), [NOW_MS] * 2, [19, 0])

    assert popularity.counts(np.array([1]), NOW_MS)[0].tolist() == [21, 21, 21] and len(popularity._keys) == 10


def test_counts_are_zero_before_any_event_and_for_rows_never_observed() -> None:
    popularity = Popularity()
    assert (popularity.counts(np.array([1, ITEMS * 100]), NOW_MS) == 0).all()
    popularity.observe(np.array([5000]), [NOW_MS])
    assert popularity.counts(np.array([5000, 99_999]), NOW_MS)[:, 0].tolist() == [1, 0]


def test_counts_are_consistent_while_events_are_observed() -> None:
    """Each batch is so much later that earlier events have decayed to nothing: a consistent count is 1 everywhere, or 0."""
    popularity, rows = Popularity(), np.arange(1, 2000)
    stop, failures = threading.Event(), list[str]()

    def read() -> None:
        while not stop.is_set():
            counts = popularity.counts(rows, now_ms=0)  # at the newest event
            if counts.any() and not np.allclose(counts, 1, rtol=1e-4):
                failures.append(f"{counts.min()} to {counts.max()}")

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for batch in range(BATCHES):
            popularity.observe(rows, [(batch + 1) * (SPAN_DAYS + 1) * DAY_MS] * len(rows))
        stop.set()
        for reader in readers:
            reader.join()
    finally:
        sys.setswitchinterval(interval_s)

    assert not failures
