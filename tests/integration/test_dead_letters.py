"""Dead letters on a real broker: listed once, replayed with filters, put into quarantine, taken away, forgotten."""

import time
from collections import Counter

import pytest

from features.repository import FeatureRepository
from reaseq.errors import ReaSeqError
from reaseq.records import History, UserFeatures
from reaseq.settings import Settings
from streams.contract.dead_letters import KEPT_KEY_BYTES, KEPT_VALUE_BYTES, to_dead_letter
from streams.contract.messages import RawRecord, encode
from streams.contract.topics import EVENTS, ITEMS, USER_FEATURES, Topic
from streams.operations.dead_letter_queue import DeadLetterQueue, Filter, Replayed
from streams.runtime.kafka_clients import Producer, read_all

pytestmark = pytest.mark.integration

LIMIT_BYTES = 1_000_000


def dead(topic: Topic, key: str, offset: int, reason: str = "failed", value: bytes = b"{}") -> RawRecord:
    raw = RawRecord(topic.name, key.encode(), value, 1, (("trace", b"7"),), 0, offset)
    return to_dead_letter(raw, "history" if topic is EVENTS else "onboarding", reason, "what went wrong", now_ms(), LIMIT_BYTES)


def now_ms() -> int:
    return int(time.time() * 1000)


def produce(settings: Settings, *records: RawRecord) -> None:
    producer = Producer(settings.kafka)
    producer.send_raw(records)
    producer.close()


@pytest.fixture
def box(services: Settings) -> DeadLetterQueue:
    """An empty letter box; three failures lead to quarantine."""
    found = DeadLetterQueue(services.kafka, 3)
    found.discard(Filter())
    assert not found.counts()
    return found


def test_a_letter_is_open_once_until_it_is_replayed(services: Settings, box: DeadLetterQueue) -> None:
    store = FeatureRepository(services)
    letters = [dead(EVENTS, "u1", 10), dead(EVENTS, "u1", 10), dead(EVENTS, "u2", 11), dead(ITEMS, "i1", 12, "invalid_field")]
    produce(services, *letters)
    assert box.counts() == Counter({("history", "failed"): 2, ("onboarding", "invalid_field"): 1})

    assert box.replay(Filter(key="u1"), store) == Replayed(1, 0)

    (again,) = [raw for raw in read_all(services.kafka, EVENTS) if raw.key == b"u1"]
    assert again.value == b"{}" and ("trace", b"7") in again.headers
    assert [letter.record.key for letter in box.open(Filter(topic="events"))] == [b"u2"]
    assert box.replay(Filter(reason="invalid_*"), store) == Replayed(1, 0)
    assert box.counts() == Counter({("history", "failed"): 1})


def test_a_letter_that_failed_again_and_again_stays_in_quarantine(services: Settings, box: DeadLetterQueue) -> None:
    store, failed = FeatureRepository(services), dead(EVENTS, "u3", 20)
    for offset in (21, 22):
        produce(services, failed)
        (letter,) = box.open()
        assert box.replay(Filter(), store) == Replayed(1, 0)
        failed = to_dead_letter(
            letter.again(now_ms())._replace(offset=offset), "history", "failed", "again", now_ms(), LIMIT_BYTES
        )
    produce(services, failed)

    assert box.replay(Filter(), store) == Replayed(0, 1)
    (letter,) = box.open()
    assert letter.attempts == 3 and box.in_quarantine(letter)
    assert box.replay(Filter(id=letter.id), store, quarantined=True) == Replayed(1, 0)
    assert not list(box.open())


def test_of_a_feature_record_the_newest_is_replayed(services: Settings, box: DeadLetterQueue) -> None:
    def version(number: int) -> UserFeatures:
        return UserFeatures(user_id="u4", event_time_ms=number, events_seen=number, history=History())

    store = FeatureRepository(services)
    store.write([version(5)])
    produce(
        services, to_dead_letter(encode(version(3), 1)._replace(offset=30), "inference", "failed", "", now_ms(), LIMIT_BYTES)
    )

    box.replay(Filter(), store)

    assert [raw.value for raw in read_all(services.kafka, USER_FEATURES)] == [encode(version(5), 1).value]


def test_a_feature_record_that_is_none_cannot_be_replayed_but_dropped(services: Settings, box: DeadLetterQueue) -> None:
    garbage = RawRecord(USER_FEATURES.name, b"u5", b"{garbage", 1)
    produce(services, to_dead_letter(garbage, "inference", "malformed_json", "", now_ms(), LIMIT_BYTES))

    with pytest.raises(ReaSeqError, match="user-features/0/0/inference is no feature record"):
        box.replay(Filter(), FeatureRepository(services))

    assert box.discard(Filter(id="user-features/0/0/inference")) == 1
    assert not list(box.open())


def test_of_a_record_that_is_too_large_the_beginning_is_kept_and_not_replayed(services: Settings, box: DeadLetterQueue) -> None:
    large = RawRecord(EVENTS.name, b"u6" * 5_000, b"{" * LIMIT_BYTES, 1, (("trace", b"7"), ("empty", None)), 0, 50)  # type: ignore[arg-type]
    produce(services, to_dead_letter(large, "history", "malformed_json", "", now_ms(), LIMIT_BYTES))

    (letter,) = box.open()

    assert letter.id == "events/0/50/behavior"
    assert letter.record.key == b"u6" * (KEPT_KEY_BYTES // 2) and letter.record.value == b"{" * KEPT_VALUE_BYTES
    kept_bytes = KEPT_KEY_BYTES + KEPT_VALUE_BYTES
    assert letter.cut_bytes == LIMIT_BYTES + 10_000 + len("trace7empty") - kept_bytes
    assert box.replay(Filter(), FeatureRepository(services), quarantined=True) == Replayed(0, 1)
    assert box.discard(Filter()) == 1


def test_all_letters_of_a_user_are_forgotten_whoevers_key_they_bear(services: Settings, box: DeadLetterQueue) -> None:
    produce(
        services,
        dead(EVENTS, "u6", 40, value=b"{broken"),
        dead(EVENTS, "somebody", 41, "key_mismatch", b'{"user_id": "u6"}'),
        dead(EVENTS, "u66", 42, value=b'{"user_id": "u66", "item_id": "u6 "}'),
    )

    assert box.forget(["u6"]) == 2

    assert [letter.record.key for letter in box.open()] == [b"u66"]
