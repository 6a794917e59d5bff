"""Reconciliation writes again what the store lost, and nothing else; rebuilding marks the store only if all is written."""

import random
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest
from kafka import TopicPartition
from pydantic import SecretStr

from features.repository import ReconcileResult
from reaseq.errors import StoreUnavailable
from reaseq.records import FeatureRecord, History, ItemFeatures, UserFeatures
from reaseq.settings import KafkaSettings, Settings
from streams.delivery.messages import RawRecord, encode
from streams.delivery.topics import USER_FEATURES, Topic
from streams.operations import rebuild as rebuild_module
from streams.operations import reconcile as reconcile_module
from streams.operations.rebuild import rebuild
from streams.operations.reconcile import Reconciler, reconcile


def user(user_id: str, events_seen: int = 1) -> UserFeatures:
    return UserFeatures(user_id=user_id, event_time_ms=1, events_seen=events_seen, history=History())


ITEM = ItemFeatures(item_id="i", event_time_ms=1, listed_ms=1, status="text", title="thing", vector=b"")


class Store:
    """A fake store: gives each entity its scripted results in order, and keeps what is written.

    Its shards are by the last digit of the id; entities without one are on the first.
    """

    shards = range(3)

    def __init__(self, **results: list[ReconcileResult]) -> None:
        self.steps: list[str] = []
        self.written: list[FeatureRecord] = []
        self.compared: list[FeatureRecord] = []
        self.fails = False
        self.dead: int | None = None  # a shard
        self._results = results

    def compare(self, records: Sequence[FeatureRecord]) -> list[ReconcileResult]:
        if any(self.shard_of(record.entity_id) == self.dead for record in records):
            raise StoreUnavailable("connection lost")
        self.compared += records
        return [self._results[record.entity_id].pop(0) for record in records]

    def write(self, records: Sequence[FeatureRecord]) -> None:
        if self.fails:
            raise StoreUnavailable("connection lost")
        self.written += records

    def shard_of(self, entity_id: str) -> int:
        return int(entity_id[-1]) % 3 if entity_id[-1].isdigit() else 0

    @contextmanager
    def rebuilding(self, shards: Collection[int]) -> Iterator[None]:
        self.filled = list(shards)
        self.steps.append("begin")
        yield
        self.steps.append("end")


def topics_hold(monkeypatch: pytest.MonkeyPatch, *records: RawRecord | FeatureRecord) -> None:
    """Make readers of the topics find the records."""
    raws = [record if isinstance(record, RawRecord) else encode(record, 1) for record in records]

    def read(settings: KafkaSettings, topic: Topic, *_: object) -> list[RawRecord]:
        return [raw for raw in raws if raw.topic == topic.name]

    monkeypatch.setattr(reconcile_module, "read_sample", read)
    monkeypatch.setattr(rebuild_module, "read_all", read)
    monkeypatch.setattr(rebuild_module, "read_ends", lambda settings, topics: {})
    monkeypatch.setattr(reconcile_module, "GRACE_S", 0.0)


def test_only_records_that_stay_behind_are_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    topics_hold(monkeypatch, user("lost", 1), user("late"), user("newer"), user("other"), ITEM, user("lost", 2))
    store = Store(
        lost=["behind", "behind"], late=["behind", "equal"], newer=["ahead"], other=["different"], i=["behind", "behind"]
    )

    results = reconcile(Settings(), store, 100, random.Random(0))

    assert store.written == [ITEM, user("lost", 2)]
    assert user("lost", 1) not in store.compared  # its topic has a newer record
    assert results["user-features"] == {"behind": 1, "equal": 1, "ahead": 1, "different": 1}
    assert results["item-features"] == {"behind": 1}


def test_shards_that_answer_are_reconciled_while_another_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    topics_hold(monkeypatch, user("u0"), user("u1"), user("u2"))
    store = Store(u0=["behind", "behind"], u2=["behind", "behind"])
    store.dead = 1

    with pytest.raises(StoreUnavailable):
        reconcile(Settings(), store, 100, random.Random(0))

    assert store.written == [user("u0"), user("u2")]


def test_failed_reconciliation_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, calls, repeated = Settings(), [], threading.Event()
    settings.worker.reconcile_interval_s = 0.001

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            repeated.set()
            threading.Event().wait()
        raise StoreUnavailable("connection lost")

    monkeypatch.setattr(reconcile_module, "reconcile", fail)
    Reconciler(settings, Store()).start()

    assert repeated.wait(timeout=30)


def test_rebuild_writes_every_valid_record_before_the_store_counts_as_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = [RawRecord(USER_FEATURES.name, b"u", value, 1) for value in (b"{", b"", b'{"schema": "user-features.99"}')]
    tombstone = RawRecord(USER_FEATURES.name, b"u", None, 1)
    users = [user(f"u{number}") for number in range(1200)]
    topics_hold(monkeypatch, *users[:700], *invalid, tombstone, ITEM, *users[700:])
    store, progress = Store(), list[int]()

    counts = rebuild(Settings(), store, progress=progress.append)

    assert store.written == [ITEM, *users] and store.steps == ["begin", "end"]
    assert counts == {"written": 1201, "rejected": 3} and sum(progress) == 1201


def test_rebuild_that_cannot_write_leaves_the_store_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    topics_hold(monkeypatch, user("u"))
    store = Store()
    store.fails = True

    with pytest.raises(StoreUnavailable):
        rebuild(Settings(), store)

    assert store.steps == ["begin"]


def test_rebuild_of_one_shard_writes_its_records_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    topics_hold(monkeypatch, user("u0"), user("u1"), ITEM, user("u4"))
    store = Store()

    assert rebuild(Settings(), store, shards=[1])["written"] == 2

    assert store.written == [user("u1"), user("u4")] and store.filled == [1]


def test_replaced_store_is_closed_before_the_last_records_are_written_and_the_new_one_is_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, settings = Store(), Settings()
    settings.store.replaced_redis_url = SecretStr("redis://old/0")
    topic: list[UserFeatures] = []
    partition = TopicPartition(USER_FEATURES.name, 0)

    class Replaced:
        """A fake of the store that is replaced, to which one more worker has written when it is closed."""

        def close_to_writers(self) -> None:
            topic.append(user("last"))
            store.steps.append("close")

    def read(settings: KafkaSettings, of: Topic, last_records: int | None, since: dict[TopicPartition, int] | None) -> object:
        if of is not USER_FEATURES:
            return []
        topic.append(user(f"meanwhile-{len(topic)}"))  # the stream goes on while the topic is read
        return [encode(record, 1) for record in topic[since[partition] if since else 0 : -1]]

    monkeypatch.setattr(rebuild_module, "read_all", read)
    monkeypatch.setattr(rebuild_module, "read_ends", lambda settings, topics: {partition: len(topic)})
    monkeypatch.setattr(rebuild_module, "_open_store", lambda settings, url: Replaced())

    rebuild(settings, store)

    assert store.steps == ["begin", "close", "end"]
    assert user("last") in store.written and len({record.entity_id for record in store.written}) == len(topic) - 1
