"""Malformed and hostile records: each is processed or leaves one dead letter with a reason, in constant memory.

`make faults` runs it with `FUZZ_RECORDS=1000000`.
"""

import asyncio
import json
import logging
import os
import random
import resource
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import structlog

from features.repository import FeatureRepository
from reaseq.declaration import Declaration
from reaseq.records import EARLIEST_TIME_MS
from reaseq.settings import Settings
from streams.delivery.dead_letters import DeadLetter
from streams.delivery.delivery import Delivery
from streams.delivery.messages import Message, RawRecord
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import EVENTS, ITEM_FEATURES, ITEMS, USER_FEATURES, Topic
from streams.runtime.in_process import InProcessBroker
from streams.stages.history import HistoryStage
from streams.stages.onboarding import OnboardingStage
from tests.fakes.delivery import Journal
from tests.unit.streams.delivery.test_any_interleaving import LetterCountEncoder
from tests.unit.streams.stages.test_user_stages import FakeItemTable

RECORDS = int(os.environ.get("FUZZ_RECORDS", "20000"))
BATCH_RECORDS = 500
MEMORY_LIMIT_MIB = 50

VALID: dict[Topic, dict[str, object]] = {
    ITEMS: {
        "schema": "item.1",
        "item_id": "k",
        "title": "t",
        "event_time_ms": EARLIEST_TIME_MS,
        "price": 1.5,
        "attributes": {"color": "red"},
    },
    EVENTS: {
        "schema": "event.1",
        "event_id": "e",
        "user_id": "k",
        "item_id": "i",
        "type": "view",
        "event_time_ms": EARLIEST_TIME_MS,
        "quantity": 2,
    },
    ITEM_FEATURES: {"schema": "item-features.2", "item_id": "k", "event_time_ms": 1, "listed_ms": 1, "status": "text"},
    USER_FEATURES: {
        "schema": "user-features.1",
        "user_id": "k",
        "event_time_ms": 1,
        "events_seen": 1,
        "history": {"item_ids": ["i"], "types": [1], "times_ms": [1], "event_keys": [7]},
    },
}
HOSTILE: list[object] = [
    None, True, -1, 0, 2**53, 2**64, -(2**70), 1e308, "", "\x00", "💥" * 40, "x" * 2000, [], [[[]]], {}, {"a": {}},
    "1970-01-01", "<|im_start|>system", "'; DROP TABLE items; --", "../../etc/passwd", "\ud800",
]  # fmt: skip


def _field(generator: random.Random, fields: dict[str, object]) -> bytes:
    changed = fields | {generator.choice([*fields, "unknown"]): generator.choice(HOSTILE)}
    return json.dumps(changed).encode()


def _missing(generator: random.Random, fields: dict[str, object]) -> bytes:
    removed = generator.choice(list(fields))
    return json.dumps({name: value for name, value in fields.items() if name != removed}).encode()


def _bytes(generator: random.Random, fields: dict[str, object]) -> bytes:
    value = bytearray(json.dumps(fields).encode())
    for _ in range(generator.randint(1, 4)):
        value[generator.randrange(len(value))] = generator.randrange(256)
    return bytes(value)


def _cut(generator: random.Random, fields: dict[str, object]) -> bytes:
    value = json.dumps(fields).encode()
    return value[: generator.randrange(len(value))]


def _noise(generator: random.Random, fields: dict[str, object]) -> bytes:
    return generator.randbytes(generator.randrange(200))


def _deep(generator: random.Random, fields: dict[str, object]) -> bytes:
    return b"[" * generator.randrange(1, 5000)


def _numbers(generator: random.Random, fields: dict[str, object]) -> bytes:
    name, number = generator.choice(list(fields)), generator.choice(["1e999", "NaN", "-Infinity", "9" * 400, "0x10", "01"])
    return json.dumps(fields | {name: "@"}).replace('"@"', number).encode()


def _duplicate_field(generator: random.Random, fields: dict[str, object]) -> bytes:
    return json.dumps(fields).encode()[:-1] + b', "event_time_ms": -5}'


MUTATIONS: list[Callable[[random.Random, dict[str, object]], bytes]] = [
    _field, _field, _missing, _bytes, _bytes, _cut, _noise, _deep, _numbers, _duplicate_field,
]  # fmt: skip
KEYS = [b"k", b"k", b"k", None, b"", b"\xff\xfe", b"other", b"k" * 5000]
HEADERS = [(), (), (("reaseq-origin-ms", b"9" * 30),), (("reaseq-dead-attempts", b"-1"),), (("x", b"\xff"), ("x", b""))]


class Sink:
    """A stage that counts the messages that it processes."""

    name, batch = "sink", BatchPolicy(BATCH_RECORDS, 0)

    def __init__(self, source: Topic) -> None:
        self.source = source
        self.processed = 0

    async def process(self, batch: Sequence[Message]) -> Effects:
        self.processed += len(batch)
        return Effects()


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Silence logging: a line per dead letter would be most of the work."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@pytest.mark.parametrize("topic", VALID, ids=lambda topic: topic.name)
def test_every_record_is_processed_or_becomes_a_dead_letter_with_a_reason(topic: Topic) -> None:
    generator, journal, sink = random.Random(0), Journal(), Sink(topic)
    delivery = Delivery(sink, journal, journal, Settings().guard.future_limit_s)
    reasons: Counter[str] = Counter()
    peak_kib = 0
    for start in range(0, RECORDS // len(VALID), BATCH_RECORDS):
        batch = [_hostile(generator, topic, start + row) for row in range(BATCH_RECORDS)]
        processed = sink.processed
        asyncio.run(delivery.handle(batch))
        produced, journal.produced = journal.dead_letters, []
        assert len({record.key for record in produced}) == len(produced) == BATCH_RECORDS - (sink.processed - processed)
        for dead_letter in map(DeadLetter.from_record, produced):
            assert dead_letter.reason and dead_letter.message
            assert dead_letter.record.value == batch[_offset(dead_letter) - start].value
            reasons[dead_letter.reason] += 1
        if start == BATCH_RECORDS * 4:  # everything that is loaded once has been loaded
            peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert {"malformed_json", "invalid_field", "missing_key", "invalid_key", "key_mismatch", "unknown_schema"} <= set(reasons)
    assert 0 < sink.processed < RECORDS // len(VALID) / 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < MEMORY_LIMIT_MIB * 1024


def _hostile(generator: random.Random, topic: Topic, offset: int) -> RawRecord:
    value = generator.choice(MUTATIONS)(generator, VALID[topic]) if generator.random() < 0.99 else None
    return RawRecord(topic.name, generator.choice(KEYS), value, -1, generator.choice(HEADERS), 0, offset)


def _offset(dead_letter: DeadLetter) -> int:
    return int(dead_letter.id.split("/")[2])


@pytest.mark.integration
def test_records_that_pass_the_schema_pass_stages_and_store(tmp_path: Path) -> None:
    store = FeatureRepository(Settings(state_dir=tmp_path))
    store.apply()
    generator, broker, batch = random.Random(1), InProcessBroker(), BatchPolicy(BATCH_RECORDS, 0)
    users, items = (
        HistoryStage(store, FakeItemTable(), Settings().behavior, batch),
        OnboardingStage(store, LetterCountEncoder(), Declaration(), batch),
    )
    for stage, key in ((items, "item_id"), (users, "user_id")):
        broker.dead_letters.clear()
        values = [_field(generator, VALID[stage.source]) for _ in range(2000)]
        records = [
            RawRecord(stage.source.name, entity_id.encode(errors="replace"), value, 1, (), 0, offset)
            for offset, value in enumerate(values)
            if isinstance(entity_id := json.loads(value).get(key), str)
        ]
        asyncio.run(Delivery(stage, broker, store, Settings().guard.future_limit_s).handle(records))

        reasons = {DeadLetter.from_record(record).reason for record in broker.dead_letters}
        assert reasons <= {"invalid_field", "unknown_schema", "malformed_json", "missing_key", "invalid_key", "wrong_time_unit"}
        assert 0 < len(broker.dead_letters) < len(records)
    odd = ["k", "\x00", "💥" * 40]
    assert list(store.read_items(odd)) == list(store.read_users(odd)) == odd
