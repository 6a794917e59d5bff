"""Rebuild and reconciliation: the topics are the truth, and a real Redis that lost something is made to hold it again."""

import random
import threading
import time

import numpy as np
import pytest
import redis

from features.definitions import VIEWS
from features.repository import FeatureRepository
from reaseq.errors import StoreUnavailable
from reaseq.records import FeatureRecord, History, ItemFeatures, UserFeatures
from reaseq.settings import Settings
from streams.contract.messages import RawRecord
from streams.contract.topics import USER_FEATURES
from streams.operations.rebuild import rebuild, records_to_read
from streams.operations.reconcile import reconcile
from streams.runtime.kafka_clients import Producer

pytestmark = pytest.mark.integration

ITEMS, USERS, VERSIONS = 300, 200, 3


def records() -> list[FeatureRecord]:
    """Several versions of every entity, the older ones first."""
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
    """A whole store, and topics that say the same."""
    store = FeatureRepository(services)
    with pytest.raises(StoreUnavailable, match="rebuild"):  # new, it might as well have been emptied
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


def test_an_emptied_store_is_rebuilt_while_readers_and_writers_go_on(
    services: Settings, filled: FeatureRepository, client: redis.Redis
) -> None:
    before, strict = rows(filled), FeatureRepository(services, require_complete=True)
    assert strict.read_users(["u1"])
    client.flushall()

    for ask in (lambda: strict.read_users(["u1"]), lambda: strict.drop_stale(records()[-1:])):
        with pytest.raises(StoreUnavailable, match="rebuild"):
            ask()
    assert filled.read_users(["u1"]) == {}  # who only reads gets what there is

    newer = UserFeatures(user_id="u1", event_time_ms=VERSIONS + 1, events_seen=9, history=History())
    shown: list[int] = []
    rebuilding = threading.Thread(target=lambda: rebuild(services, filled, rate_records_per_s=2000, progress=shown.append))
    rebuilding.start()
    while not shown:
        time.sleep(0.01)
    filled.write([newer])
    assert rebuilding.is_alive()
    rebuilding.join()

    assert sum(shown) == records_to_read(services) == len(records())
    assert strict.read_users(["u1"]) == {"u1": newer}
    filled.online.update(filled.config, [], [], [], [], partial=True)
    after = rows(filled)
    changed = {key for view in after for key in after[view] if after[view][key] != before[view].get(key)}
    assert {view: after[view].keys() for view in after} == {view: before[view].keys() for view in before}
    assert len(changed) == 1  # the one that was written meanwhile


def test_a_store_that_is_emptied_while_it_is_filled_is_not_taken_for_whole(
    services: Settings, filled: FeatureRepository, client: redis.Redis
) -> None:
    with pytest.raises(StoreUnavailable), filled.rebuilding():
        client.flushall()

    assert not filled.is_complete()
    rebuild(services, filled)
    assert filled.is_complete()


def test_garbage_in_a_topic_of_features_does_not_stop_a_rebuild(services: Settings, filled: FeatureRepository) -> None:
    before = rows(filled)
    producer = Producer(services.kafka)
    producer.send_raw([RawRecord(USER_FEATURES.name, b"u1", b"{garbage", int(time.time() * 1000))])
    producer.close()

    counts = rebuild(services, filled)

    assert counts == {"written": len(records()), "rejected": 1}
    assert rows(filled) == before


def test_reconciliation_finds_what_the_store_lost_and_writes_it_again(
    services: Settings, filled: FeatureRepository, client: redis.Redis
) -> None:
    generator = random.Random(0)
    clean = reconcile(services, filled, 10_000, generator)
    assert not any(of["behind"] or of["different"] for of in clean.values()) and clean["item-features"]["equal"]
    before = rows(filled)
    for key in list(client.scan_iter("reaseq:user_history:*"))[:20] + list(client.scan_iter("reaseq:user_inferred:*"))[20:30]:
        client.delete(key)

    found = [reconcile(services, filled, 10_000, generator)["user-features"]["behind"] for _ in range(40)]

    assert 20 <= sum(found) <= 30 and not found[-1]  # partition by partition, until all are found
    assert rows(filled) == before
