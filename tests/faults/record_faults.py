"""Records that no producer should send."""

import time
from contextlib import closing

import msgspec
from kafka import KafkaProducer

from reaseq.days import DAY_MS
from streams.delivery.messages import RawRecord, encode
from streams.delivery.topics import EVENTS, TOPICS
from tests.faults.load import build_event
from tests.faults.system import FaultySystem

TRANSACTION_S = 1.0
YEAR_2096_MS = 126 * 365 * DAY_MS


def aborted_transactions(system: FaultySystem, times: int) -> int:
    """Let a foreign producer open transactions in all partitions of `events` and abort them; no user may appear."""
    kafka = system.settings.kafka
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id="faults")) as producer:
        producer.init_transactions()
        for number in range(times):
            producer.begin_transaction()
            event = build_event("aborted", number + 1)
            for partition in range(kafka.partitions):
                producer.send(EVENTS.name, key=b"aborted", value=msgspec.json.encode(event), partition=partition)
            producer.flush()
            time.sleep(TRANSACTION_S)
            producer.abort_transaction()
    return times


def undecodable_records(system: FaultySystem, times: int) -> int:
    """Produce records into every topic that nothing can decode: no JSON, a later version, and a record of another topic."""
    of_another_topic = {topic.name: encode(build_event("foreign", 1), 1).value for topic in TOPICS} | {
        EVENTS.name: b'{"item_id": "i"}'
    }
    for number in range(times):
        for topic in TOPICS:
            for kind, value in enumerate((b"\xff no JSON", b'{"schema": "x.9"}', of_another_topic[topic.name])):
                system.inject([RawRecord(topic.name, f"foreign-{number}-{kind}".encode(), value, int(time.time() * 1000))])
        time.sleep(1.0)
    return times


def events_from_2096(system: FaultySystem, times: int) -> int:
    """Produce events whose time is in the year 2096."""
    for number in range(times):
        system.inject([encode(build_event(f"future-{number}", YEAR_2096_MS), int(time.time() * 1000))])
        time.sleep(0.5)
    return times
