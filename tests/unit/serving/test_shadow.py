"""Shadow scoring and its comparison with the serving model."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from reaseq.settings import ServiceSettings
from serving.app import AppState
from serving.degradation import RankingResult, RankingTask
from serving.shadow import Shadow, correlation, overlap
from tests.fakes.ranker import USER, Store, engine
from tests.fakes.serving import WebServer, build_ranker, build_task, request_body


@pytest.mark.parametrize(("seed", "agrees"), [(0, True), (5, False)])
def test_shadow_agrees_only_with_the_same_model(serve: Callable[[AppState], WebServer], seed: int, agrees: bool) -> None:
    shadow = Shadow(engine(seed=seed), share=1.0, draw=lambda: 0.0)
    server = serve(AppState(build_ranker(Store(USER)), ServiceSettings(budget_ms=10_000), shadow=shadow))
    for _ in range(5):
        server.post("/v1/rank", request_body())
        time.sleep(0.05)
    deadline = time.monotonic() + 10
    while server.get("/v1/shadow").json()["tasks"] < 5 and time.monotonic() < deadline:
        time.sleep(0.02)

    report = server.get("/v1/shadow").json()
    assert (report["model"], report["shadow"], report["tasks"]) == ("v0", f"v{seed}", 5)
    assert (report["top_10_overlap_mean"] == 1 and report["rank_correlation_mean"] == 1) is agrees
    assert report["shadow_p99_ms"] >= report["shadow_p50_ms"] > 0


def test_shadow_drops_tasks_while_busy_and_ignores_tasks_that_are_not_drawn() -> None:
    released = threading.Event()

    class SlowShadow(Shadow):
        def _compare(self, task: RankingTask, result: RankingResult) -> None:
            released.wait(5)

    ranked = RankingResult(np.zeros(2, np.float32), "fresh", (), "v0", USER)
    without_model = RankingResult(np.zeros(2, np.float32), "popularity", (), "", None)
    shadow = SlowShadow(engine(), share=0.5, draw=iter([0.4] * 30 + [0.6] * 10).__next__)
    for _ in range(40):
        shadow.offer(build_task(), ranked)
    shadow.offer(build_task(), without_model)  # would exhaust `draw`
    released.set()

    assert 30 - 16 - 1 <= shadow.report().dropped <= 30 - 16


def test_overlap_and_rank_correlation() -> None:
    rising = np.arange(20, dtype=np.float32)
    ties = np.array([1, 1, 2], np.float32)

    assert overlap(rising, rising) == 1 and overlap(rising, -rising) == 0 and overlap(rising[:4], -rising[:4]) == 1
    assert correlation(rising, rising) == pytest.approx(1) and correlation(rising, -rising) == pytest.approx(-1)
    assert correlation(ties, ties.copy()) == pytest.approx(1)


def test_constant_scores_and_single_candidates_have_no_rank_correlation() -> None:
    constant, rising = np.ones(20, np.float32), np.arange(20, dtype=np.float32)

    assert correlation(constant, rising) is None and correlation(rising[:1], rising[:1]) is None


def test_missing_shadow_is_not_found(start_service: Callable[..., WebServer]) -> None:
    assert start_service().get("/v1/shadow").status_code == 404
