"""Redis loses rows that it has confirmed: by eviction, by deletion, and in a failover. No history is built on the loss."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import redis

from features.remembering_repository import RememberingRepository
from features.repository import FeatureRepository
from infra import local, process
from infra.redis import start_redis
from reaseq.errors import StoreEvicts, StoreUnavailable
from reaseq.records import Event, History, UserFeatures
from reaseq.settings import Settings
from streams.delivery import metrics
from streams.delivery.topics import USER_FEATURES
from streams.operations.rebuild import LOST, read_lost, rebuild
from streams.runtime.kafka.producer import Producer
from streams.runtime.store_watch import StoreWatch
from tests.faults.proxy import FaultyProxy

pytestmark = pytest.mark.integration

USERS = 300
BALLAST_KEYS, BALLAST_BYTES = 20, 100_000
BALLAST_S = 3600  # a key without an expiry would not be evicted
DEADLINE_S = 120.0


def user(number: int, events: int) -> UserFeatures:
    columns = tuple(range(events))
    history = History(item_ids=tuple(f"i{n}" for n in columns), types=(1,) * events, times_ms=columns, event_keys=columns)
    return UserFeatures(user_id=f"u{number}", event_time_ms=1000, events_seen=events, history=history)


def wait_for(is_done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_done():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture(scope="module")
def records(services: Settings) -> list[UserFeatures]:
    """The newest record of each user; the topic has an older one of each as well."""
    newest = [user(number, events=2) for number in range(USERS)]
    producer = Producer(services.kafka)
    producer.send([user(number, events=1) for number in range(USERS)])
    producer.send(newest)
    producer.close()
    return newest


@pytest.fixture
def client(services: Settings) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(services.store.redis_url.get_secret_value()) as connected:
        yield connected


@pytest.fixture
def store(services: Settings, records: list[UserFeatures], client: redis.Redis) -> FeatureRepository:
    """A complete store, required to be so."""
    client.flushall()
    client.config_resetstat()
    rebuild(services, FeatureRepository(services))
    return FeatureRepository(services, require_complete=True)


@contextmanager
def evicting(client: redis.Redis) -> Iterator[None]:
    """Let Redis evict keys inside the block: those of the ballast, since a test of the marker needs the marker to stay."""
    client.config_set("maxmemory-policy", "volatile-random")
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


def evict_something(client: redis.Redis) -> None:
    for number in range(BALLAST_KEYS):
        client.set(f"ballast-{number}", bytes(BALLAST_BYTES), ex=BALLAST_S)
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) - BALLAST_BYTES)  # type: ignore[index]
    client.set("one more key", b"")
    assert client.info("stats")["evicted_keys"]  # type: ignore[index]


def test_nothing_is_built_on_a_store_that_may_evict(services: Settings, store: FeatureRepository, client: redis.Redis) -> None:
    assert store.read_users(["u1"])
    watch = StoreWatch(store)
    with evicting(client):
        for use in (
            lambda: store.read_users(["u1"]),
            lambda: store.drop_stale([user(1, events=3)]),
            lambda: rebuild(services, FeatureRepository(services)),
            watch.start,
        ):
            with pytest.raises(StoreEvicts, match="noeviction"):
                use()
        assert [str(fault) for fault in watch.faults()]
        assert metrics.STORE_EVICTS._value.get() == 1

    watch.check()
    assert not watch.faults() and metrics.STORE_EVICTS._value.get() == 0
    assert store.read_users(["u1"])


def test_worker_and_setup_do_not_start_on_a_store_that_may_evict(services: Settings, client: redis.Redis) -> None:
    env = local.environment(services)
    with evicting(client):
        for command in (("worker", "--name", "w"), ("setup",)):
            run = subprocess.run(
                [sys.executable, "-m", "reaseq", *command], env=env, capture_output=True, text=True, timeout=300, check=False
            )
            assert run.returncode and "maxmemory-policy" in run.stdout + run.stderr, run.stdout + run.stderr


def test_store_that_evicted_rows_is_incomplete_until_it_is_rebuilt(
    services: Settings, store: FeatureRepository, client: redis.Redis, records: list[UserFeatures]
) -> None:
    with evicting(client):
        evict_something(client)

    with pytest.raises(StoreUnavailable, match="rebuild"):
        store.read_users(["u1"])
    client.config_resetstat()  # as a restart of Redis does
    assert not store.is_complete()

    rebuild(services, FeatureRepository(services))

    assert store.read_users([record.user_id for record in records]) == {record.user_id: record for record in records}


def test_rebuild_during_which_rows_were_evicted_leaves_the_store_incomplete(
    services: Settings, store: FeatureRepository, client: redis.Redis
) -> None:
    rebuilt = FeatureRepository(services)
    with pytest.raises(StoreUnavailable, match="again"), rebuilt.rebuilding(), evicting(client):
        evict_something(client)

    assert not store.is_complete()


@pytest.mark.parametrize("read", ["read_users", "drop_stale"])
def test_lost_records_are_restored_from_the_topic_before_they_are_read(
    services: Settings, store: FeatureRepository, client: redis.Redis, records: list[UserFeatures], read: str
) -> None:
    worker = RememberingRepository(services, partial(read_lost, services))
    worker.write(records)
    client.flushall()
    with store.rebuilding():  # the store is whole, but of an earlier time
        store.write([user(number, events=1) for number in range(USERS - 1)])
    lost = metrics.RECONCILED.labels(USER_FEATURES.name, LOST)
    before = lost._value.get()

    if read == "read_users":
        assert worker.read_users(["u1", f"u{USERS - 1}", "nobody"]) == {"u1": records[1], f"u{USERS - 1}": records[-1]}
    else:
        assert worker.drop_stale([user(1, events=1), user(2, events=3)]) == [user(2, events=3)]

    assert lost._value.get() > before
    assert store.read_users([record.user_id for record in records]) == {record.user_id: record for record in records}


def test_corrupt_row_is_replaced_by_the_record_in_the_topic_before_it_is_read(
    services: Settings, store: FeatureRepository, client: redis.Redis, records: list[UserFeatures]
) -> None:
    worker = RememberingRepository(services, partial(read_lost, services))
    worker.write(records)
    [key] = client.scan_iter("reaseq:user_history*u2")
    client.setrange(key, 30, b"another value")

    assert worker.read_users(["u1", "u2"]) == {"u1": records[1], "u2": records[2]}
    assert store.read_users(["u2"]) == {"u2": records[2]}


def test_record_that_is_far_from_the_end_of_the_topic_is_restored(
    services: Settings,
    store: FeatureRepository,
    client: redis.Redis,
    records: list[UserFeatures],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.operations.rebuild.TAILS_RECORDS", (1, None))
    worker = RememberingRepository(services, partial(read_lost, services))
    worker.write(records[:1])
    client.delete(*client.scan_iter("reaseq:user_*u0"))

    assert worker.read_users(["u0"]) == {"u0": records[0]}


def test_record_that_the_topic_lacks_too_is_waited_for(
    services: Settings, store: FeatureRepository, client: redis.Redis
) -> None:
    worker = RememberingRepository(services, partial(read_lost, services))
    worker.write([user(1, events=5)])
    client.delete(*client.scan_iter("reaseq:user_*u1"))

    with pytest.raises(StoreUnavailable, match="lost"):
        worker.read_users(["u1"])


def test_failover_to_a_replica_without_the_last_writes_costs_no_event(services: Settings, store: FeatureRepository) -> None:
    settings, now_ms = services.model_copy(deep=True), int(time.time() * 1000)
    primary = int(services.store.redis_url.get_secret_value().rpartition(":")[2].partition("/")[0])
    proxy, replica_port = FaultyProxy(primary), process.free_port()
    settings.store.redis_url = type(settings.store.redis_url)(f"redis://127.0.0.1:{proxy.port}/0")
    replica_settings = Settings(state_dir=services.state_dir / "replica")
    registry = services.state_dir / "registry.db"
    applied = registry.read_bytes()
    producer = Producer(services.kafka)

    def send(first: int, last: int, port: int) -> None:
        """Produce events of one user, and wait until the Redis at `port` has them."""
        producer.send(
            [
                Event(event_id=f"e{n}", user_id="v", item_id="i", type="view", event_time_ms=now_ms + n)
                for n in range(first, last)
            ]
        )
        there = services.model_copy(deep=True)
        there.store.redis_url = type(there.store.redis_url)(f"redis://127.0.0.1:{port}/0")
        reading = FeatureRepository(there)
        wait_for(
            lambda: len(reading.read_users(["v"]).get("v", user(0, events=0)).history.item_ids) == last,
            f"{last} events at {port}: {(settings.run_dir / 'w1.log').read_text()[-3000:]}",
        )

    try:
        start_redis(replica_settings.run_dir, replica_settings.state_dir / "redis", replica_port)
        replica = redis.Redis(port=replica_port)
        replica.replicaof("127.0.0.1", str(primary))
        local.wait_ready(local.start_worker(settings, "w1"))
        assert registry.read_bytes() == applied  # only `setup` writes it
        send(0, 20, replica_port)
        replica.replicaof("NO", "ONE")  # what follows is confirmed by the primary alone
        send(20, 40, primary)

        proxy.target_port = replica_port
        proxy.disconnect()

        send(40, 41, replica_port)
    finally:
        producer.close()
        process.stop(settings.run_dir, "w1")
        process.stop(replica_settings.run_dir, "redis")
        proxy.close()
