"""The ranking service on a real Redis that dies, hangs and comes back, and on an item table that changes, all under load."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from features import definitions as views
from features.repository import FeatureRepository
from infra import process
from infra.redis import start_redis
from reaseq.records import UserFeatures
from reaseq.settings import Settings
from serving import degradation as steps
from serving.api import RankingRequest, RankingResponse
from serving.app import AppState, create_app
from serving.client import RankingClient
from serving.degradation import DegradingRanker
from serving.user_cache import UserCache
from tests.fakes.catalog import ITEMS, NOW_MS, item, request, table_of
from tests.fakes.ranker import engine

pytestmark = pytest.mark.integration

USERS, UNSEEN, CALLERS = 40, 5, 6
CANDIDATES = [f"i{number}" for number in range(200)]
BUDGET_MS, KEPT_MS = 1000.0, 500.0  # tests share their machine
MANY, MOSTLY = 20, 0.9


@dataclass
class System:
    """A service in front of a Redis that the test may stop, and callers that never cease."""

    settings: Settings
    url: str
    answers: list[tuple[float, RankingResponse]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def load(self, number: int) -> None:
        """Rank for known users, one after the other; in between for users that nobody has asked for before."""
        generator = np.random.default_rng(number)
        with RankingClient(self.url, budget_ms=BUDGET_MS) as client:
            while not self.ending.is_set():
                user = f"u{generator.integers(USERS + UNSEEN)}"
                try:
                    answer = client.rank(RankingRequest(user_id=user, candidate_ids=CANDIDATES, time_ms=NOW_MS))
                except Exception as error:  # whatever it is, a caller got no ranking
                    self.failures.append(repr(error))
                else:
                    self.answers.append((time.monotonic(), answer))

    def between(self, start_s: float, end_s: float) -> list[RankingResponse]:
        """The answers of that time."""
        return [answer for at, answer in self.answers if start_s <= at < end_s]


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    settings = Settings(state_dir=tmp_path)
    settings.store.profile = "production"
    port = process.free_port()
    settings.store.redis_url = type(settings.store.redis_url)(f"redis://127.0.0.1:{port}/0")
    settings.service.store_pause_s = 0.2
    start_redis(settings.run_dir, tmp_path / "redis", port)
    repository = FeatureRepository(settings)
    repository.apply()
    repository.write([item(number) for number in range(ITEMS)])
    repository.write([_user(f"u{number}", number) for number in range(USERS)])
    table = table_of(*repository.read_items(list(repository.scan_ids(views.item_representation))).values())
    settings.store.redis_timeout_s = 0.1
    users = UserCache(FeatureRepository(settings), limit_users=1000, pause_s=settings.service.store_pause_s)
    ranker = DegradingRanker(engine(table), users)
    ranker.warm_up(len(CANDIDATES))
    server = uvicorn.Server(uvicorn.Config(create_app(AppState(ranker, settings.service)), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    found = System(settings, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    callers = [threading.Thread(target=found.load, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    yield found
    found.ending.set()
    for caller in callers:
        caller.join()
    server.should_exit = True
    thread.join()
    process.stop(settings.run_dir, "redis")


@pytest.mark.parametrize("fault", ["stopped", "hanging"])
def test_redis_fails_under_load_and_no_request_does(system: System, fault: str, tmp_path: Path) -> None:
    port = int(system.settings.store.redis_url.get_secret_value().split(":")[2].split("/")[0])
    redis = process.find(system.settings.run_dir, "redis")
    assert redis
    time.sleep(2.0)
    failed_s = time.monotonic()
    if fault == "stopped":
        process.stop(system.settings.run_dir, "redis")
    else:
        os.killpg(redis.pid, signal.SIGSTOP)
    time.sleep(2.0)
    if fault == "stopped":
        start_redis(system.settings.run_dir, tmp_path / "redis", port)
    else:
        os.killpg(redis.pid, signal.SIGCONT)
    back_s = time.monotonic()
    time.sleep(2.0)
    system.ending.set()

    before = Counter(answer.fallback_level for answer in system.between(0, failed_s))
    meanwhile = system.between(failed_s + 0.5, failed_s + 1.9)
    after = Counter(answer.fallback_level for answer in system.between(back_s + 1.0, back_s + 9))
    assert not system.failures
    assert before["fresh"] > MANY and before["fresh"] >= MOSTLY * before.total()
    assert {answer.fallback_level for answer in meanwhile} <= {"last_known", "popularity"} and len(meanwhile) > MANY
    assert all(steps.NO_STORE in answer.degraded for answer in meanwhile)
    assert {answer.fallback_level for answer in meanwhile if answer.user_id == "u1"} == {
        "last_known"
    }  # it had been read before
    assert after["fresh"] > MANY and after["fresh"] >= MOSTLY * after.total()  # nobody helped it
    took_ms = [answer.took_ms for _, answer in system.answers]
    assert np.percentile(took_ms, 99) <= KEPT_MS


def _user(user_id: str, seed: int) -> UserFeatures:
    history = request(seed).history
    return UserFeatures(user_id=user_id, event_time_ms=history.times_ms[-1], events_seen=len(history.item_ids), history=history)
