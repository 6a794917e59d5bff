"""Reconciliation writes again what the store lost, and nothing else; rebuilding marks the store only if all is written."""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

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
    """A fake store: gives each entity its scripted results in order, and keeps what is written."""

    def __init__(self, **results: list[ReconcileResult]) -> None:
        self.steps: list[str] = []
        self.written: list[FeatureRecord] = []
        self.compared: list[FeatureRecord] = []
        self.fails = False
        self._results = results

    def compare(self, records: Sequence[FeatureRecord]) -> list[ReconcileResult]:
        self.compared += records
        return [self._results[record.entity_id].pop(0) for record in records]

    def write(self, records: Sequence[FeatureRecord]) -> None:
        if self.fails:
            raise StoreUnavailable("connection lost")
        self.written += records

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
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
