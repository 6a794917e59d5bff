"""A store of three real Redis servers: who may use it, what a dead shard costs, and how it moves to another number of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from features.repository import FeatureRepository
from features.sharding import shard_of
from infra import local, process
from infra.process import LOOPBACK
from infra.redis import start_redis
from infra.scratch import settings_on_free_ports, start_empty
from reaseq.errors import ShardMapMismatch, StoreUnavailable
from reaseq.records import Event, History, Item, UserFeatures
from reaseq.settings import Settings
from serving.user_cache import UserCache
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.operations.rebuild import rebuild
from streams.operations.status import wait_until_idle
from streams.runtime.kafka.producer import Producer
from streams.runtime.store_watch import StoreWatch
from tests.probe import readiness
from tests.shards import port_of, running_shards, start_shard, stop_shard, use_shards

pytestmark = pytest.mark.integration

SHARDS, DEAD = 3, 1
USERS = [f"u{number}" for number in range(60)]
ON_DEAD = [user_id for user_id in USERS if shard_of(user_id.encode(), SHARDS) == DEAD]
ELSEWHERE = [user_id for user_id in USERS if user_id not in ON_DEAD]
ITEMS_PER_ROUND = 12
DEADLINE_S = 180.0
ACTS_EVERY_S = 0.5


def user(user_id: str, events_seen: int = 1) -> UserFeatures:
    return UserFeatures(user_id=user_id, event_time_ms=1000, events_seen=events_seen, history=History())


def wait_for(is_done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_done():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a complete store of three shards, without brokers."""
    settings = Settings(state_dir=tmp_path)
    with running_shards(settings, SHARDS):
        with FeatureRepository(settings).rebuilding():
            pass
        yield settings


def on(settings: Settings, *urls: str) -> Settings:
    """The same settings with other shards."""
    there = settings.model_copy(deep=True)
    there.store.redis_url = SecretStr(",".join(urls))
    return there


def uses(store: FeatureRepository) -> list[Callable[[], object]]:
    """What a worker, a reader and an operator do first."""
    return [
        lambda: store.read_users(USERS),
        lambda: store.write([user(user_id) for user_id in USERS]),
        lambda: store.drop_stale([user(user_id) for user_id in USERS]),
        lambda: store.find_incomplete(store.shards[:2]),
        lambda: list(store.scan_user_ids()),
        lambda: store.online.begin_rebuild(store.config, store.shards[:2]),
        StoreWatch(store).start,
    ]


def test_process_whose_settings_name_other_shards_is_refused(sharded: Settings) -> None:
    FeatureRepository(sharded).write([user(user_id) for user_id in USERS])
    first, second, third = sharded.store.redis_urls

    for urls in ([first], [third], [first, second], [second, first, third], [first, second, third, "redis://127.0.0.1:1/0"]):
        wrong = FeatureRepository(on(sharded, *urls))
        for use in uses(wrong):
            with pytest.raises(ShardMapMismatch, match=r"REASEQ_STORE__REDIS_URL names as shard \d of \d .*has recorded"):
                use()
        assert wrong.read_available_users(USERS)[1] >= {0}

    stored = [key for url in (first, second, third) for key in redis.Redis.from_url(url).scan_iter()]
    assert len(stored) == 2 * len(USERS) + 2 * SHARDS, "two rows for each user, and the marker and the place of each shard"
    assert FeatureRepository(sharded).read_users(USERS) == {user_id: user(user_id) for user_id in USERS}


def test_filled_redis_of_a_release_without_shards_becomes_no_shard(sharded: Settings) -> None:
    old = sharded.store.redis_urls[0].replace("/0", "/1")
    with FeatureRepository(on(sharded, old)).rebuilding():
        redis.Redis.from_url(old).delete("reaseq::shard")
    assert FeatureRepository(on(sharded, old)).is_complete()

    with (
        pytest.raises(ShardMapMismatch, match="databases that are empty"),
        FeatureRepository(on(sharded, old, *sharded.store.redis_urls[1:])).rebuilding(),
    ):
        pass


@pytest.mark.parametrize("hanging", [False, True])
def test_call_is_completed_on_the_shards_that_answer(sharded: Settings, hanging: bool) -> None:
    sharded.store.redis_timeout_s = 0.5
    store, strict = FeatureRepository(sharded), FeatureRepository(sharded, require_complete=True)
    store.write([user(user_id) for user_id in USERS])
    newer = {user_id: user(user_id, events_seen=2) for user_id in USERS}
    dead = process.find(sharded.run_dir, f"redis-{DEAD + 1}")
    assert dead
    if hanging:
        os.killpg(dead.pid, signal.SIGSTOP)
    else:
        stop_shard(sharded, DEAD)

    for use in (lambda: store.write(list(newer.values())), lambda: store.read_users(USERS), lambda: strict.read_users(USERS)):
        with pytest.raises(StoreUnavailable, match=f"shard {DEAD + 1} of {SHARDS}"):
            use()
    assert strict.read_users(ELSEWHERE) == {user_id: newer[user_id] for user_id in ELSEWHERE}
    assert strict.drop_stale([user(ELSEWHERE[0])]) == []
    found, failed = store.read_available_users(USERS)
    assert (set(found), failed) == (set(ELSEWHERE), {DEAD})
    cache = UserCache(store, limit_users=1000, pause_s=60)
    assert {known.fresh for known in cache.read(ON_DEAD)} == {False}
    started_s = time.monotonic()
    assert [known.fresh for known in cache.read(USERS)] == [user_id in ELSEWHERE for user_id in USERS]
    assert time.monotonic() - started_s < 0.4, "the dead shard is left alone"

    if hanging:
        os.killpg(dead.pid, signal.SIGCONT)
    else:
        start_shard(sharded, DEAD)
    assert store.write(list(newer.values())) == [], "written again, it is not stale"
    assert strict.read_users(USERS) == newer


def test_emptied_shard_is_incomplete_for_its_own_entities_alone(sharded: Settings) -> None:
    strict = FeatureRepository(sharded, require_complete=True)
    redis.Redis(port=port_of(sharded, DEAD)).flushall()

    assert strict.find_incomplete() == [DEAD]
    assert strict.read_users(ELSEWHERE) == {}
    with pytest.raises(StoreUnavailable, match=rf"incomplete .*: shard {DEAD + 1} of {SHARDS}: run"):
        strict.read_users(USERS)
    with strict.rebuilding([DEAD]):
        pass
    assert strict.is_complete()


def test_write_waits_for_the_replica_of_each_shard(sharded: Settings) -> None:
    settings = sharded.model_copy(deep=True)
    settings.store.redis_replicas = 1
    replica_run_dir, port = settings.state_dir / "replica-run", process.free_port()
    replica = start_redis(replica_run_dir, settings.state_dir / "replica", port)
    try:
        with redis.Redis(port=port_of(settings, DEAD)) as primary, redis.Redis(port=port) as client:
            primary.config_set("repl-diskless-sync-delay", 0)
            client.replicaof(LOOPBACK, port_of(settings, DEAD))
            process.wait_until(lambda: bool(primary.wait(1, 100)), 60, "the replica", replica)
        store = FeatureRepository(settings)

        assert store.write([user(user_id) for user_id in ON_DEAD]) == []
        with pytest.raises(StoreUnavailable, match=r"shard [13] of 3: 0 of 1 replicas"):
            store.write([user(user_id) for user_id in USERS])
    finally:
        process.stop(replica_run_dir, "redis")


class Shop:
    """Users who act, on a system whose store the test damages and moves."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sent: dict[str, list[str]] = defaultdict(list)  # the items of each user, in order
        self.listed: list[str] = []
        self._producer = Producer(settings.kafka)

    def act(self, user_ids: Sequence[str] = USERS) -> None:
        """One more event of each user."""
        now_ms, events = int(time.time() * 1000), []
        for user_id in user_ids:
            item = f"i{len(self.sent[user_id])}"
            event_id = f"{user_id}-{item}"
            events.append(Event(event_id=event_id, user_id=user_id, item_id=item, type="view", event_time_ms=now_ms))
            self.sent[user_id].append(item)
        self._producer.send(events)

    def list_items(self) -> None:
        """List some items more."""
        new = [f"item-{len(self.listed) + number}" for number in range(ITEMS_PER_ROUND)]
        self._producer.send([Item(item_id=item_id, event_time_ms=int(time.time() * 1000), title="A mug") for item_id in new])
        self.listed += new

    def has_items(self, store: FeatureRepository, dead: int | None = None) -> bool:
        """Whether the items are onboarded, apart from those of a dead shard."""
        wanted = [item_id for item_id in self.listed if store.shard_of(item_id) != dead]
        return len(store.read_items(wanted)) == len(wanted)

    def has_all(self, store: FeatureRepository, user_ids: Sequence[str] = USERS) -> bool:
        """Whether the histories have every event of these users, and each once."""
        found = store.read_available_users(user_ids)[0]
        return all(
            user_id in found and sorted(found[user_id].history.item_ids, key=lambda item: int(item[1:])) == self.sent[user_id]
            for user_id in user_ids
        )

    def close(self) -> None:
        self._producer.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A running broker, a store of three shards, and a worker."""
    settings = settings_on_free_ports(tmp_path_factory.mktemp("shop"))
    use_shards(settings, SHARDS)
    settings.store.redis_timeout_s = 1.0
    settings.kafka.session_timeout_s = 6.0
    try:
        rebuild(settings, start_empty(settings))
        local.wait_ready(local.start_worker(settings, "worker-1"))
        shop = Shop(settings)
        yield shop
        shop.close()
    finally:
        local.stop_all(settings)


def restart_on_its_data(settings: Settings) -> None:
    start_shard(settings, DEAD, data=f"redis-{DEAD + 1}")


def replace_by_an_empty_one(settings: Settings) -> None:
    start_shard(settings, DEAD, data="another machine")
    reaseq(settings, "setup")


def reaseq(settings: Settings, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **local.environment(settings), **variables}
    run = subprocess.run(
        [sys.executable, "-m", "reaseq", *command], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run


@pytest.mark.parametrize("recover", [restart_on_its_data, replace_by_an_empty_one])
def test_killed_shard_stops_its_own_items_and_users_and_loses_nothing(shop: Shop, recover: Callable[[Settings], None]) -> None:
    settings, store = shop.settings, FeatureRepository(shop.settings)
    shop.act()
    wait_for(lambda: shop.has_all(store), "events before the fault")

    stop_shard(settings, DEAD)
    for _ in range(3):
        shop.act()
        shop.list_items()
        wait_for(lambda: shop.has_items(store, DEAD), "items elsewhere while the shard is dead")
        wait_for(lambda: shop.has_all(store, ELSEWHERE), "events of users elsewhere while the shard is dead")
    cache = UserCache(FeatureRepository(settings), limit_users=1000, pause_s=1.0)
    assert [known.fresh for known in cache.read(USERS)] == [user_id in ELSEWHERE for user_id in USERS]
    process.stop(settings.run_dir, "worker-1", wait_s=0.0)  # with records of the dead shard in its memory
    local.wait_ready(local.start_worker(settings, "worker-1"))
    shop.list_items()
    shop.act()
    wait_for(lambda: shop.has_items(store, DEAD), "items after a restart of the worker")
    wait_for(lambda: shop.has_all(store, ELSEWHERE), "events of users elsewhere after a restart of the worker")
    recover(settings)
    shop.act()

    wait_for(lambda: shop.has_all(store) and shop.has_items(store), "all events and items after the fault")
    wait_until_idle(settings)
    assert FeatureRepository(settings).is_complete()
    assert not DeadLetterQueue(settings.kafka, 3).counts()
    counted: Counter[str] = Counter()
    for row in (row for page in store.scan_aggregates() for row in page):
        counted[row.item_id] += row.deltas
    assert counted == Counter(item_id for items in shop.sent.values() for item_id in items), "each event counts once"


def test_emptied_shard_is_filled_again_and_loses_nothing(shop: Shop) -> None:
    settings, store = shop.settings, FeatureRepository(shop.settings)
    shop.act()
    wait_for(lambda: shop.has_all(store), "events before the fault")

    redis.Redis(port=port_of(settings, DEAD)).flushall()
    shop.act()
    shop.list_items()
    wait_for(lambda: shop.has_items(store, DEAD), "items elsewhere while the shard is empty")
    assert not store.read_users(ON_DEAD), "nothing is built on the loss"
    reaseq(settings, "setup")

    wait_for(lambda: shop.has_all(store), "events of all users after the fault")
    wait_until_idle(settings)
    assert not DeadLetterQueue(settings.kafka, 3).counts()


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2)])
def test_store_moves_to_another_number_of_shards_while_stream_and_readers_go_on(shop: Shop, before: int, after: int) -> None:
    kafka, state_dir = shop.settings.kafka, shop.settings.state_dir / f"{before}-{after}"
    old, new = (Settings(state_dir=state_dir / name, kafka=kafka) for name in ("old", "new"))
    process.stop(shop.settings.run_dir, "worker-1")
    with running_shards(old, before), running_shards(new, after), stopping(old, "worker-old"), stopping(new, "worker-new"):
        rebuild(old, FeatureRepository(old))
        worker = local.start_worker(old, "worker-old")
        local.wait_ready(worker)
        shop.act()
        wait_for(lambda: shop.has_all(FeatureRepository(old)), "events before the move")
        with acting(shop):
            reaseq(new, "features", "rebuild", REASEQ_STORE__REPLACED_REDIS_URL=old.store.redis_url.get_secret_value())

            reading = FeatureRepository(old)
            assert reading.read_users(USERS).keys() == set(USERS), "readers of the replaced store go on"
            with pytest.raises(ShardMapMismatch, match="replaced"):
                reading.write([user("u1", events_seen=10_000)])
            wait_for(lambda: "another store has replaced this one" in readiness(worker), "the old worker is refused")
            process.stop(old.run_dir, "worker-old")
            local.wait_ready(local.start_worker(new, "worker-new"))
        moved = FeatureRepository(new)
        wait_for(lambda: shop.has_all(moved), "all events in the new store")
        wait_until_idle(new)
        assert moved.is_complete() and not DeadLetterQueue(kafka, 3).counts()
        assert sorted(moved.scan_user_ids()) == sorted(USERS), "each user is on one shard"


@contextmanager
def stopping(settings: Settings, worker: str) -> Iterator[None]:
    """Stop a worker at the end of the block, if it has been started."""
    try:
        yield
    finally:
        process.stop(settings.run_dir, worker)


@contextmanager
def acting(shop: Shop) -> Iterator[None]:
    """Let some users act all the time."""
    stop = threading.Event()

    def act() -> None:
        while not stop.wait(ACTS_EVERY_S):
            shop.act(USERS[:20])

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
