"""The dead-letter queue on a real broker: reading, filtered replay, quarantine, discard and erasure."""

import time
from collections import Counter

import pytest

from features.repository import FeatureRepository
from reaseq.errors import ReaSeqError
from reaseq.records import History, UserFeatures
from reaseq.settings import Settings
from streams.delivery.dead_letters import KEPT_KEY_BYTES, KEPT_VALUE_BYTES, to_dead_letter
from streams.delivery.messages import RawRecord, encode
from streams.delivery.topics import EVENTS, ITEMS, USER_FEATURES, Topic
from streams.operations.dead_letter_queue import DeadLetterQueue, Filter, ReplayResult
from streams.runtime.kafka.producer import Producer
from streams.runtime.kafka.reader import read_all

pytestmark = pytest.mark.integration

LIMIT_BYTES = 1_000_000


def build_dead_letter(topic: Topic, key: str, offset: int, reason: str = "failed", value: bytes = b"{}") -> RawRecord:
    raw = RawRecord(topic.name, key.encode(), value, 1, (("trace", b"7"),), 0, offset)
    return to_dead_letter(raw, "history" if topic is EVENTS else "onboarding", reason, "what went wrong", now_ms(), LIMIT_BYTES)


def now_ms() -> int:
    return int(time.time() * 1000)


def produce(settings: Settings, *records: RawRecord) -> None:
    producer = Producer(settings.kafka)
    producer.send_raw(records)
    producer.close()


@pytest.fixture
def queue(services: Settings) -> DeadLetterQueue:
    """An empty dead-letter queue with quarantine after three failures."""
    queue = DeadLetterQueue(services.kafka, 3)
    queue.discard(Filter())
    assert not queue.counts()
    return queue


def test_dead_letter_is_open_once_until_it_is_replayed(services: Settings, queue: DeadLetterQueue) -> None:
    store = FeatureRepository(services)
    dead_letters = [
        build_dead_letter(EVENTS, "u1", 10),
        build_dead_letter(EVENTS, "u1", 10),
        build_dead_letter(EVENTS, "u2", 11),
        build_dead_letter(ITEMS, "i1", 12, "invalid_field"),
    ]
    produce(services, *dead_letters)
    assert queue.counts() == Counter({("history", "failed"): 2, ("onboarding", "invalid_field"): 1})

    assert queue.replay(Filter(key="u1"), store) == ReplayResult(1, 0)

    (replayed,) = [raw for raw in read_all(services.kafka, EVENTS) if raw.key == b"u1"]
    assert replayed.value == b"{}" and ("trace", b"7") in replayed.headers
    assert [dead_letter.record.key for dead_letter in queue.read_open(Filter(topic="events"))] == [b"u2"]
    assert queue.replay(Filter(reason="invalid_*"), store) == ReplayResult(1, 0)
    assert queue.counts() == Counter({("history", "failed"): 1})


def test_record_that_keeps_failing_is_quarantined(services: Settings, queue: DeadLetterQueue) -> None:
    store, failed = FeatureRepository(services), build_dead_letter(EVENTS, "u3", 20)
    for offset in (21, 22):
        produce(services, failed)
        (dead_letter,) = queue.read_open()
        assert queue.replay(Filter(), store) == ReplayResult(1, 0)
        failed = to_dead_letter(
            dead_letter.to_replay(now_ms())._replace(offset=offset), "history", "failed", "again", now_ms(), LIMIT_BYTES
        )
    produce(services, failed)

    assert queue.replay(Filter(), store) == ReplayResult(0, 1)
    (dead_letter,) = queue.read_open()
    assert dead_letter.attempts == 3 and queue.in_quarantine(dead_letter)
    assert queue.replay(Filter(id=dead_letter.id), store, quarantined=True) == ReplayResult(1, 0)
    assert not list(queue.read_open())


def test_replay_of_a_feature_record_produces_the_newest_one(services: Settings, queue: DeadLetterQueue) -> None:
    def version(number: int) -> UserFeatures:
        return UserFeatures(user_id="u4", event_time_ms=number, events_seen=number, history=History())

    store = FeatureRepository(services)
    store.write([version(5)])
    produce(
        services, to_dead_letter(encode(version(3), 1)._replace(offset=30), "inference", "failed", "", now_ms(), LIMIT_BYTES)
    )

    queue.replay(Filter(), store)

    assert [raw.value for raw in read_all(services.kafka, USER_FEATURES)] == [encode(version(5), 1).value]


def test_invalid_feature_record_can_be_discarded_but_not_replayed(services: Settings, queue: DeadLetterQueue) -> None:
    garbage = RawRecord(USER_FEATURES.name, b"u5", b"{garbage", 1)
    produce(services, to_dead_letter(garbage, "inference", "malformed_json", "", now_ms(), LIMIT_BYTES))

    with pytest.raises(ReaSeqError, match="user-features/0/0/inference is not a valid feature record"):
        queue.replay(Filter(), FeatureRepository(services))

    assert queue.discard(Filter(id="user-features/0/0/inference")) == 1
    assert not list(queue.read_open())


def test_cut_dead_letter_keeps_the_beginning_and_is_not_replayed(services: Settings, queue: DeadLetterQueue) -> None:
    large = RawRecord(EVENTS.name, b"u6" * 5_000, b"{" * LIMIT_BYTES, 1, (("trace", b"7"), ("empty", None)), 0, 50)  # type: ignore[arg-type]
    produce(services, to_dead_letter(large, "history", "malformed_json", "", now_ms(), LIMIT_BYTES))

    (dead_letter,) = queue.read_open()

    assert dead_letter.id == "events/0/50/history"
    assert dead_letter.record.key == b"u6" * (KEPT_KEY_BYTES // 2) and dead_letter.record.value == b"{" * KEPT_VALUE_BYTES
    kept_bytes = KEPT_KEY_BYTES + KEPT_VALUE_BYTES
    assert dead_letter.cut_bytes == LIMIT_BYTES + 10_000 + len("trace7empty") - kept_bytes
    assert queue.replay(Filter(), FeatureRepository(services), quarantined=True) == ReplayResult(0, 1)
    assert queue.discard(Filter()) == 1


def test_erasure_deletes_every_dead_letter_that_mentions_the_user(services: Settings, queue: DeadLetterQueue) -> None:
    produce(
        services,
        build_dead_letter(EVENTS, "u6", 40, value=b"{broken"),
        build_dead_letter(EVENTS, "somebody", 41, "key_mismatch", b'{"user_id": "u6"}'),
        build_dead_letter(EVENTS, "u66", 42, value=b'{"user_id": "u66", "item_id": "u6 "}'),
        build_dead_letter(EVENTS, "somebody", 43, "key_mismatch", rb'{"user_id": "\u0075\u0036"}'),
    )

    assert queue.erase(["u6"]) == 3

    assert [dead_letter.record.key for dead_letter in queue.read_open()] == [b"u66"]
