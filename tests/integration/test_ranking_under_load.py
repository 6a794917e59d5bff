"""The ranking service under load, on a real Redis, or on three, one of which stops or hangs and comes back."""

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
from features.sharding import shard_of
from infra import process
from reaseq.records import UserFeatures
from reaseq.settings import Settings
from serving import degradation as levels
from serving.api import RankingRequest, RankingResponse
from serving.app import AppState, create_app
from serving.client import RankingClient
from serving.degradation import DegradingRanker
from serving.user_cache import UserCache
from tests.fakes.catalog import ITEMS, NOW_MS, build_table, item, request
from tests.fakes.ranker import engine
from tests.shards import running_shards, shard_name, start_shard, stop_shard

pytestmark = [pytest.mark.integration, pytest.mark.alone]

USERS, UNSEEN, CALLERS = 40, 5, 6
CANDIDATES = [f"i{number}" for number in range(200)]
BUDGET_MS = 1000.0  # generous: tests share their machine
MIN_RESPONSES, MIN_FRESH_SHARE = 20, 0.7  # one read that stalls costs a tenth of the two seconds


@dataclass
class System:
    """A service on a Redis that the test may stop, and callers that rank continuously."""

    settings: Settings
    url: str
    responses: list[tuple[float, RankingResponse]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def load(self, number: int) -> None:
        """Rank for random users, some of them unknown to the store."""
        generator = np.random.default_rng(number)
        with RankingClient(self.url, budget_ms=BUDGET_MS) as client:
            while not self.stop.is_set():
                user = f"u{generator.integers(USERS + UNSEEN)}"
                try:
                    response = client.rank(RankingRequest(user_id=user, candidate_ids=CANDIDATES, time_ms=NOW_MS))
                except Exception as error:  # any error means that a caller got no ranking
                    self.failures.append(repr(error))
                else:
                    self.responses.append((time.monotonic(), response))

    def between(self, start_s: float, end_s: float) -> list[RankingResponse]:
        """The responses that arrived in an interval."""
        return [response for arrived_s, response in self.responses if start_s <= arrived_s < end_s]


@pytest.fixture(params=[1, 3])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    settings = Settings(state_dir=tmp_path)
    settings.service.store_pause_s = 0.2
    with running_shards(settings, request.param):
        yield from serve(settings)


def serve(settings: Settings) -> Iterator[System]:
    """A service on the store of the settings, under load."""
    repository = FeatureRepository(settings)
    repository.apply()
    repository.write([item(number) for number in range(ITEMS)])
    repository.write([_user(f"u{number}", number) for number in range(USERS)])
    table = build_table(*repository.read_items(list(repository.scan_ids(views.item_representation))).values())
    settings.store.redis_timeout_s = 0.1
    users = UserCache(FeatureRepository(settings), limit_users=1000, pause_s=settings.service.store_pause_s)
    ranker = DegradingRanker(engine(table), users)
    ranker.warm_up(len(CANDIDATES))
    server = uvicorn.Server(uvicorn.Config(create_app(AppState(ranker, settings.service)), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    system = System(settings, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    callers = [threading.Thread(target=system.load, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    yield system
    system.stop.set()
    for caller in callers:
        caller.join()
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("fault", ["stopped", "hanging"])
def test_no_request_fails_while_a_redis_is_down_and_only_its_users_are_degraded(system: System, fault: str) -> None:
    shards = len(system.settings.store.redis_urls)
    dead = shard_of(b"u1", shards)
    redis = process.find(system.settings.run_dir, shard_name(dead))
    assert redis
    time.sleep(2.0)
    failed_s = time.monotonic()
    if fault == "stopped":
        stop_shard(system.settings, dead)
    else:
        os.killpg(redis.pid, signal.SIGSTOP)
    time.sleep(2.0)
    if fault == "stopped":
        start_shard(system.settings, dead)
    else:
        os.killpg(redis.pid, signal.SIGCONT)
    back_s = time.monotonic()
    time.sleep(2.0)
    system.stop.set()

    before = Counter(response.fallback_level for response in system.between(0, failed_s))
    meanwhile = system.between(failed_s + 0.5, failed_s + 1.9)
    its_own = [response for response in meanwhile if shard_of(response.user_id.encode(), shards) == dead]
    others = [response for response in meanwhile if shard_of(response.user_id.encode(), shards) != dead]
    after = Counter(response.fallback_level for response in system.between(back_s + 1.0, back_s + 9))
    assert not system.failures
    assert before["fresh"] > MIN_RESPONSES and before["fresh"] >= MIN_FRESH_SHARE * before.total()
    assert len(its_own) > MIN_RESPONSES
    assert {response.fallback_level for response in its_own} <= {"last_known", "popularity"}
    assert all(levels.NO_STORE in response.degraded for response in its_own)
    known = {response.fallback_level for response in its_own if response.user_id == "u1"}  # read before the fault
    assert known == {"last_known"}
    if shards > 1:
        fresh = [response for response in others if levels.NO_STORE not in response.degraded]
        assert len(others) > MIN_RESPONSES and len(fresh) >= MIN_FRESH_SHARE * len(others)
    assert after["fresh"] > MIN_RESPONSES and after["fresh"] >= MIN_FRESH_SHARE * after.total()  # it recovers on its own
    took_ms = [response.took_ms for _, response in system.responses]
    assert np.percentile(took_ms, 99) <= BUDGET_MS


def _user(user_id: str, seed: int) -> UserFeatures:
    history = request(seed).history
    return UserFeatures(user_id=user_id, event_time_ms=history.times_ms[-1], events_seen=len(history.item_ids), history=history)
