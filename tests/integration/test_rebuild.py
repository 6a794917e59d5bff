"""Rebuild and reconciliation: records that a real Redis has lost are written again from the topics."""

import random
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
import redis

from features.definitions import VIEWS
from features.repository import FeatureRepository
from reaseq.errors import StoreUnavailable
from reaseq.records import FeatureRecord, History, ItemFeatures, UserFeatures
from reaseq.settings import Settings
from streams.delivery.messages import RawRecord
from streams.delivery.topics import USER_FEATURES
from streams.operations.rebuild import rebuild, records_to_read
from streams.operations.reconcile import reconcile
from streams.runtime.kafka.producer import Producer

pytestmark = pytest.mark.integration

ITEMS, USERS, VERSIONS = 300, 200, 3


def records() -> list[FeatureRecord]:
    """Several versions of every entity, oldest first."""
    found: list[FeatureRecord] = []
    for version in range(1, VERSIONS + 1):
        vector = np.full(8, version, np.float16).tobytes()
        found += [
            ItemFeatures(item_id=f"i{n}", event_time_ms=version, listed_ms=1, status="text", title=f"{n}", vector=vector)
            for n in range(ITEMS)
        ]
        history = History(item_ids=("i1",) * version, types=(1,) * version, times_ms=(1,) * version, event_keys=(1,) * version)
        found += [
            UserFeatures(user_id=f"u{n}", event_time_ms=version, events_seen=version, history=history) for n in range(USERS)
        ]
    return found


def rows(store: FeatureRepository) -> dict[str, dict[bytes, bytes]]:
    return {view.name: dict(store.online.scan(store.config, view)) for view in VIEWS}


@pytest.fixture(scope="module")
def filled(services: Settings) -> FeatureRepository:
    """A complete store, and topics with the same records."""
    store = FeatureRepository(services)
    with pytest.raises(StoreUnavailable, match="rebuild"):  # a new store cannot be distinguished from an emptied one
        FeatureRepository(services, require_complete=True).read_users(["u1"])
    rebuild(services, store)
    producer = Producer(services.kafka)
    producer.send(records())
    producer.close()
    store.write(records())
    return store


@pytest.fixture
def client(services: Settings) -> redis.Redis:
    return redis.Redis.from_url(services.store.redis_url.get_secret_value())


def test_emptied_store_is_rebuilt_while_readers_and_writers_keep_running(
    services: Settings, filled: FeatureRepository, client: redis.Redis
) -> None:
    before, strict = rows(filled), FeatureRepository(services, require_complete=True)
    assert strict.read_users(["u1"])
    client.flushall()

    for read in (lambda: strict.read_users(["u1"]), lambda: strict.drop_stale(records()[-1:])):
        with pytest.raises(StoreUnavailable, match="rebuild"):
            read()
    assert filled.read_users(["u1"]) == {}  # a reader that does not require completeness gets what is there

    newer = UserFeatures(user_id="u1", event_time_ms=VERSIONS + 1, events_seen=9, history=History())
    progress: list[int] = []
    rebuilding = threading.Thread(target=lambda: rebuild(services, filled, rate_records_per_s=2000, progress=progress.append))
    rebuilding.start()
    while not progress:
        time.sleep(0.01)
    filled.write([newer])
    assert rebuilding.is_alive()
    rebuilding.join()

    assert sum(progress) == records_to_read(services) == len(records())
    assert strict.read_users(["u1"]) == {"u1": newer}
    filled.online.update(filled.config, [], [], [], [], partial=True)
    after = rows(filled)
    changed = {key for view in after for key in after[view] if after[view][key] != before[view].get(key)}
    assert {view: after[view].keys() for view in after} == {view: before[view].keys() for view in before}
    assert len(changed) == 1  # the one written during the rebuild


def test_store_emptied_during_a_rebuild_stays_incomplete(
    services: Settings, filled: FeatureRepository, client: redis.Redis
) -> None:
    with pytest.raises(StoreUnavailable), filled.rebuilding():
        client.flushall()

    assert not filled.is_complete()
    rebuild(services, filled)
    assert filled.is_complete()


def test_rebuild_of_a_store_that_was_emptied_does_not_complete_it_in_the_name_of_a_later_one(
    services: Settings, filled: FeatureRepository, client: redis.Redis
) -> None:
    with ExitStack() as later:
        with pytest.raises(StoreUnavailable), filled.rebuilding():
            client.flushall()
            later.enter_context(filled.rebuilding())
        assert not filled.is_complete()
        filled.write(records())

    assert filled.is_complete()


def test_invalid_feature_record_does_not_stop_a_rebuild(services: Settings, filled: FeatureRepository) -> None:
    before = rows(filled)
    producer = Producer(services.kafka)
    producer.send_raw([RawRecord(USER_FEATURES.name, b"u1", b"{garbage", int(time.time() * 1000))])
    producer.close()

    counts = rebuild(services, filled)

    assert counts == {"written": len(records()), "rejected": 1}
    assert rows(filled) == before


def test_reconciliation_restores_lost_records(services: Settings, filled: FeatureRepository, client: redis.Redis) -> None:
    generator = random.Random(0)
    clean = reconcile(services, filled, 10_000, generator)
    assert not any(results["behind"] or results["different"] for results in clean.values()) and clean["item-features"]["equal"]
    before = rows(filled)
    for key in list(client.scan_iter("reaseq:user_history:*"))[:20] + list(client.scan_iter("reaseq:user_inferred:*"))[20:30]:
        client.delete(key)

    found = [reconcile(services, filled, 10_000, generator)["user-features"]["behind"] for _ in range(40)]

    assert 20 <= sum(found) <= 30 and not found[-1]  # one partition at a time, until all are found
    assert rows(filled) == before
