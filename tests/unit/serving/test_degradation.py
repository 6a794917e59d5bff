"""Fallback levels of the ranker, and the user cache behind them."""

import time

import numpy as np

from serving import degradation as levels
from serving.user_cache import UserCache
from tests.fakes.catalog import CATALOG, NOW_MS
from tests.fakes.ranker import USER, Store, aggregates
from tests.fakes.serving import CANDIDATES, build_ranker, build_task


class Clock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_ranker_retries_the_model_after_a_slow_measurement() -> None:
    ranker = build_ranker(Store(USER))
    ranker._candidate_s = 10.0  # as after a stall: no budget would ever be enough

    tasks = [build_task(deadline_s=time.monotonic() + 5) for _ in range(levels.RETRY_EVERY + 3)]
    answered = [ranker.rank([task])[0].fallback_level for task in tasks]

    assert answered == ["semantic"] * (levels.RETRY_EVERY - 1) + ["fresh"] * 4
    expired = [ranker.rank([build_task(deadline_s=0)])[0].fallback_level for _ in range(2 * levels.RETRY_EVERY)]
    assert set(expired) == {"semantic"}, "no retry after the deadline"


def test_small_batches_do_not_change_the_estimated_time_per_candidate() -> None:
    ranker = build_ranker(Store(USER))
    ranker.rank([build_task()])
    estimate_s = ranker._candidate_s
    for _ in range(50):
        ranker.rank([build_task(candidate_ids=["i1"])])

    assert ranker._candidate_s == estimate_s > 0


def test_stored_user_is_ranked_fresh_and_unknown_user_by_context() -> None:
    known, unknown = build_ranker(Store(USER)).rank([build_task(), build_task("nobody", ["i1", "no such item"])])

    assert (known.fallback_level, known.reasons, known.user) == ("fresh", (), USER)
    assert (unknown.fallback_level, unknown.reasons) == ("fresh", (levels.UNKNOWN_USER, levels.UNKNOWN_CANDIDATES))
    assert known.model == unknown.model == "v0" and len(known.scores) == len(CANDIDATES)


def test_unavailable_store_falls_back_to_last_known_features_and_recovers() -> None:
    store, clock = Store(USER), Clock()
    ranker = build_ranker(store, clock)
    (before,) = ranker.rank([build_task()])
    store.off = {0}

    cached, uncached = ranker.rank([build_task(), build_task("somebody else")])
    reads = store.reads
    ranker.rank([build_task()])
    assert store.reads == reads  # the store is paused
    store.off = set()
    clock.now += 6
    (after,) = ranker.rank([build_task()])

    assert (cached.fallback_level, cached.reasons) == ("last_known", (levels.NO_STORE,))
    assert np.array_equal(cached.scores, before.scores)
    assert (uncached.fallback_level, uncached.model) == ("popularity", "")
    assert uncached.scores.tolist() == aggregates().evaluate(CATALOG.snapshot.rows(CANDIDATES).numpy(), NOW_MS)[:, -1].tolist()
    assert (after.fallback_level, after.reasons) == ("fresh", ())


def test_cached_user_that_an_emptied_store_lost_is_last_known() -> None:
    store = Store(USER)
    ranker = build_ranker(store)
    ranker.rank([build_task()])
    store.users.clear()

    lost, uncached = ranker.rank([build_task(), build_task("somebody else")])

    assert (lost.fallback_level, lost.user) == ("last_known", USER)
    assert (uncached.fallback_level, uncached.reasons) == ("fresh", (levels.UNKNOWN_USER,))


def test_dead_shard_degrades_its_own_users_alone_and_is_left_alone() -> None:
    users = [type(USER)(user_id=f"u{n}", event_time_ms=1, events_seen=1, history=USER.history) for n in range(6)]
    store, clock = Store(*users, shards=3), Clock()
    ranker = build_ranker(store, clock)
    ranker.rank([build_task("u4")])
    store.off = {1}

    results = ranker.rank([build_task(user_id) for user_id in ("u0", "u1", "u4")])

    assert [result.fallback_level for result in results] == ["fresh", "popularity", "last_known"]
    assert [result.reasons for result in results] == [(), (levels.NO_STORE,), (levels.NO_STORE,)]
    reads = store.reads
    ranker.rank([build_task("u1"), build_task("u4")])
    assert store.reads == reads, "the shard is paused"
    assert ranker.rank([build_task("u2")])[0].fallback_level == "fresh"
    store.off = set()
    clock.now += 6
    assert [result.fallback_level for result in ranker.rank([build_task("u1"), build_task("u4")])] == ["fresh"] * 2


def test_user_cache_keeps_the_most_recently_requested_users() -> None:
    users = [type(USER)(user_id=f"u{n}", event_time_ms=1, events_seen=1, history=USER.history) for n in range(3)]
    store = Store(*users)
    cache = UserCache(store, limit_users=2, pause_s=5.0, clock=Clock())
    for user in users:
        cache.read([user.user_id])
    store.off = {0}

    assert [cached.features for cached in cache.read(["u0", "u1", "u2"])] == [None, users[1], users[2]]


def test_spent_budget_ranks_by_similarity_to_the_history() -> None:
    clock = Clock()
    ranker = build_ranker(Store(USER), clock)
    ranker._candidate_s = 0.001

    late, new, early = ranker.rank(
        [
            build_task(deadline_s=clock.now + 0.02),
            build_task("nobody", deadline_s=clock.now + 0.02),
            build_task(deadline_s=clock.now + 1),
        ]
    )

    assert (late.fallback_level, late.reasons, late.model) == ("semantic", (levels.NO_TIME,), "")
    behavior = USER.history.item_ids[0]
    (similar,) = ranker.rank([build_task(candidate_ids=[behavior, "no such item"], deadline_s=clock.now)])
    assert similar.scores[0] > similar.scores[1] == 0
    assert new.fallback_level == "popularity" and new.reasons == (levels.UNKNOWN_USER, levels.NO_TIME)
    assert early.fallback_level == "fresh"


def test_warm_up_estimates_the_time_per_candidate_without_the_first_call() -> None:
    ranker = build_ranker(Store(USER))
    ranker.warm_up(candidates=100)
    estimate_s = ranker._candidate_s

    assert 0 < estimate_s < 0.01
    ranker.rank([build_task(candidate_ids=CANDIDATES * 10)])
    assert ranker._candidate_s != estimate_s
