"""What a real broker and foreign producers add to the records of the stream: transactions, codecs, odd headers, deleted
records, a clock of its own, and late records.

The worker's clock is six minutes slow in all tests.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import OffsetAndMetadata
from prometheus_client.parser import text_string_to_metric_families

from features.repository import FeatureRepository
from infra import local, process
from reaseq.records import Event, UserFeatures
from reaseq.settings import Settings
from streams.delivery.messages import RawRecord, encode
from streams.delivery.topics import EVENTS, ITEMS, TOPICS, USER_FEATURES
from streams.operations import status
from streams.operations.dead_letter_queue import DeadLetterQueue, Filter
from streams.operations.rebuild import rebuild
from streams.runtime.kafka.consumer import new_consumer
from streams.runtime.kafka.lag import lags
from streams.runtime.kafka.producer import Producer
from streams.runtime.kafka.reader import read_all
from streams.runtime.kafka.tailer import TopicTailer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CLOCK_BEHIND_S = 360
DEADLINE_S = 240.0
SLOW_CLOCK = f"""
import runpy, time
now = time.time
time.time = lambda: now() - {CLOCK_BEHIND_S}
runpy.run_module("reaseq", run_name="__main__")
"""


@pytest.fixture(scope="module")
def worker(services: Settings) -> Iterator[process.Process]:
    """A worker whose clock is six minutes slow."""
    services.kafka.archive_batch_wait_s = 0.5
    services.worker.stall_s = 5.0
    rebuild(services, FeatureRepository(services))
    port = process.free_port()
    env = local.environment(services) | {"REASEQ_WORKER__METRICS_PORT": str(port)}
    command = [sys.executable, "-c", SLOW_CLOCK, "worker", "--name", "slow"]
    started = process.start(services.run_dir, "worker-slow", command, env=env, ports=(port,))
    local.wait_ready(started)
    yield started
    process.stop(services.run_dir, started.name)


@pytest.fixture
def producer(services: Settings) -> Iterator[KafkaProducer]:
    """A transactional producer that is not ours."""
    servers = services.kafka.bootstrap_servers
    with closing(KafkaProducer(bootstrap_servers=servers, transactional_id=f"shop-{time.monotonic_ns()}")) as transactional:
        transactional.init_transactions()
        yield transactional


def event(user_id: str, ahead_s: float = 0, number: int = 1) -> RawRecord:
    """An event of now."""
    time_ms = int((time.time() + ahead_s) * 1000)
    event_id = f"{user_id}-{number}"
    return encode(Event(event_id=event_id, user_id=user_id, item_id="i", type="view", event_time_ms=time_ms), time_ms)


def begin(producer: KafkaProducer, *records: RawRecord, partition: int | None = None) -> None:
    """Send records in a new transaction and wait until the broker has them."""
    producer.begin_transaction()
    for record in records:
        producer.send(record.topic, key=record.key, value=record.value, partition=partition)
    producer.flush()


def wait_until(condition: Callable[[], bool], what: str, worker: process.Process) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}\n{worker.log_tail()}"
        time.sleep(0.2)


def has_no_lag(settings: Settings) -> bool:
    return not any(lag.uncommitted for lag in lags(settings.kafka, settings.kafka.group_id, status.SOURCES).values())


def stored_users(settings: Settings, *user_ids: str) -> set[str]:
    return set(FeatureRepository(settings).read_users(user_ids))


def test_readers_read_committed_records_only(services: Settings, producer: KafkaProducer) -> None:
    """Records of aborted and open transactions are not read, and no reader waits for the markers or the open transaction."""
    committed, aborted, still_open = (f"item-{name}".encode() for name in ("committed", "aborted", "open"))
    for key, end in ((committed, producer.commit_transaction), (aborted, producer.abort_transaction)):
        begin(producer, RawRecord(ITEMS.name, key, b"{}", 0), partition=0)
        end()
    tailed: list[bytes | None] = []
    tailer = TopicTailer(services.kafka, ITEMS, lambda records: tailed.extend(record.key for record in records)).start()
    tailer.wait()
    assert [record.key for record in read_all(services.kafka, ITEMS)] == tailed == [committed]

    begin(producer, RawRecord(ITEMS.name, still_open, b"{}", 0), partition=0)

    assert [record.key for record in read_all(services.kafka, ITEMS)] == [committed]
    again = TopicTailer(services.kafka, ITEMS, lambda records: None).start()
    again.wait()
    assert tailed == [committed]
    producer.commit_transaction()
    assert [record.key for record in read_all(services.kafka, ITEMS)] == [committed, still_open]
    for started in (tailer, again):
        started.stop()


def test_tailer_starts_at_the_last_records_and_goes_on_with_new_ones(services: Settings) -> None:
    plain = KafkaProducer(bootstrap_servers=services.kafka.bootstrap_servers)

    def send(*keys: bytes) -> None:
        for key in keys:
            plain.send(ITEMS.name, key=key, value=b"{}", partition=1).get(timeout=60)

    send(b"item-1", b"item-2", b"item-3")
    tailed: list[bytes | None] = []
    tailer = TopicTailer(
        services.kafka, ITEMS, lambda records: tailed.extend(record.key for record in records), last_records=2
    ).start()
    tailer.wait()
    assert tailed[-2:] == [b"item-2", b"item-3"] and len(tailed) <= 2 * services.kafka.partitions
    del tailed[:-2]

    send(b"item-4")
    deadline = time.monotonic() + 30
    while len(tailed) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tailed == [b"item-2", b"item-3", b"item-4"]
    tailer.stop()
    plain.close()


def test_records_that_the_topic_has_deleted_are_no_lag(services: Settings) -> None:
    group, partition = "reads-no-more", TopicPartition(EVENTS.name, 3)
    plain = KafkaProducer(bootstrap_servers=services.kafka.bootstrap_servers)
    for _ in range(5):
        plain.send(EVENTS.name, key=b"u", value=b"{}", partition=partition.partition).get(timeout=60)
    plain.close()
    with closing(new_consumer(services.kafka, group)) as consumer:
        consumer.assign([partition])
        consumer.commit({partition: OffsetAndMetadata(2, "", -1)})
    assert lags(services.kafka, group, [EVENTS])[EVENTS.name].uncommitted == 3

    with closing(KafkaAdminClient(bootstrap_servers=services.kafka.bootstrap_servers)) as admin:
        admin.delete_records({partition: 5})

    assert lags(services.kafka, group, [EVENTS])[EVENTS.name].uncommitted == 0


def test_topics_have_the_brokers_time_and_keep_superseded_records_for_a_while(services: Settings) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=services.kafka.bootstrap_servers)) as admin:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in TOPICS])["topic"]

    def configured(name: str) -> dict[str, str]:
        return {topic: configs.get(name, {"value": "0"})["value"] for topic, configs in described.items()}

    lag_ms = str(int(services.kafka.min_compaction_lag_s * 1000))
    assert configured("message.timestamp.type") == {topic.name: "LogAppendTime" for topic in TOPICS}
    compacted = {topic.name for topic in TOPICS if "compact" in topic.cleanup}
    assert configured("min.compaction.lag.ms") == {topic.name: lag_ms if topic.name in compacted else "0" for topic in TOPICS}


def test_worker_processes_committed_records_only(services: Settings, worker: process.Process, producer: KafkaProducer) -> None:
    begin(producer, event("committed"))
    producer.commit_transaction()
    begin(producer, event("aborted"))
    producer.abort_transaction()
    begin(producer, event("open"))

    wait_until(lambda: has_no_lag(services), "lag behind transaction markers", worker)
    assert stored_users(services, "committed", "aborted", "open") == {"committed"}

    producer.commit_transaction()
    wait_until(lambda: stored_users(services, "open") == {"open"}, "the transaction is committed", worker)
    assert not stored_users(services, "aborted")


def send_foreign(settings: Settings, *records: RawRecord, codec: str | None = None) -> None:
    """Send records with a producer that is not ours."""

    async def send() -> None:
        foreign = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers, compression_type=codec)
        async with foreign:
            for record in records:
                await foreign.send_and_wait(record.topic, record.value, record.key, headers=list(record.headers))

    asyncio.run(send())


def test_records_of_every_codec_are_read(services: Settings, worker: process.Process) -> None:
    """By the worker, and by kafka-python, which has no library for two of the codecs."""
    users = {codec: f"codec-{codec}" for codec in ("gzip", "snappy", "lz4", "zstd")}
    for codec, user_id in users.items():
        send_foreign(services, event(user_id), codec=codec)

    assert set(users.values()) <= {(raw.key or b"").decode() for raw in read_all(services.kafka, EVENTS)}
    wait_until(lambda: stored_users(services, *users.values()) == set(users.values()), "the events are processed", worker)


def test_odd_headers_and_keys_cost_no_record_and_stop_no_worker(services: Settings, worker: process.Process) -> None:
    null: bytes = None  # type: ignore[assignment]
    headers = {
        "null": (("traceparent", null), ("reaseq-origin-ms", null)),
        "bytes": (("traceparent", b"\xff\xfe"), ("reaseq-origin-ms", b"\xb2\xb3")),
        "twice": (("reaseq-origin-ms", b"12"), ("reaseq-origin-ms", b"-5"), ("ключ", "значение".encode())),
        "large": (("x", b"y" * 200_000),),
    }
    records = [event(f"headers-{name}")._replace(headers=odd) for name, odd in headers.items()]
    broken = [record._replace(key=f"broken-{name}".encode()) for name, record in zip(headers, records, strict=True)]
    send_foreign(services, *records, *broken, event("x")._replace(key=None), event("x")._replace(key=b"\xff\xfe"))

    wait_until(lambda: has_no_lag(services), "the events are processed", worker)

    expected = {f"headers-{name}" for name in headers}
    assert stored_users(services, *expected) == expected
    queue = DeadLetterQueue(services.kafka, services.guard.quarantine_attempts)
    buried = {letter.record.key: letter for letter in queue.read_open(Filter(topic=EVENTS.name, stage="history"))}
    for raw in broken:
        assert (buried[raw.key].reason, buried[raw.key].record.headers) == ("key_mismatch", raw.headers)
    assert (buried[None].reason, buried[b"\xff\xfe"].reason) == ("missing_key", "invalid_key")


def test_lag_is_zero_behind_a_transaction_marker(services: Settings, worker: process.Process, producer: KafkaProducer) -> None:
    """Also where nothing but an aborted record and its marker is left to read, and for the watchdog."""
    for partition in range(services.kafka.partitions):
        begin(producer, event("aborted"), partition=partition)
        producer.abort_transaction()

    wait_until(lambda: has_no_lag(services), "lag behind transaction markers", worker)
    wait_until(lambda: scraped(worker, "reaseq_lag_records", EVENTS.name) == 0, "lag in the watchdog's eyes", worker)
    wait_until(lambda: get(worker, "/readyz") is not None, "ready", worker)


def test_slow_clock_buries_no_event_but_those_of_the_future(services: Settings, worker: process.Process) -> None:
    sender = Producer(services.kafka)
    sender.send_raw([event("of-now"), event("of-the-future", ahead_s=services.guard.future_limit_s + 60)])
    sender.close()

    wait_until(lambda: has_no_lag(services), "the events are processed", worker)

    assert stored_users(services, "of-now", "of-the-future") == {"of-now"}
    queue = DeadLetterQueue(services.kafka, services.guard.quarantine_attempts)
    buried = Counter((letter.record.key, letter.reason) for letter in queue.read_open(Filter(topic=EVENTS.name, key="of-*")))
    assert buried == {(b"of-the-future", "from_the_future"): 1}


def test_late_record_of_a_zombie_does_not_stay_last_in_its_topic(services: Settings, worker: process.Process) -> None:
    def versions() -> list[UserFeatures]:
        found = [raw.value for raw in read_all(services.kafka, USER_FEATURES) if raw.key == b"haunted"]
        return [msgspec.json.decode(value, type=UserFeatures) for value in found if value]

    sender = Producer(services.kafka)
    for number in (1, 2):
        sender.send_raw([event("haunted", number=number)])
        wait_until(lambda: len({record.version for record in versions()}) == number, "a record of each event", worker)  # noqa: B023
    before = versions()
    older, newer = before[0], before[-1]
    assert older.version < newer.version

    sender.send([older])  # the zombie's produce was cancelled, but the broker had it already

    wait_until(lambda: versions()[len(before) :][-1:] == [newer], "the newer record is produced again", worker)
    assert older in versions()[len(before) :]
    assert FeatureRepository(services).read_users(["haunted"]) == {"haunted": newer}
    sender.close()


def get(worker: process.Process, path: str) -> str | None:
    return process.http_get(f"http://{process.LOOPBACK}:{worker.ports[0]}{path}")


def scraped(worker: process.Process, name: str, topic: str) -> float | None:
    """The value of a worker's metric for a topic."""
    families = text_string_to_metric_families(get(worker, "/metrics") or "")
    samples = (sample for family in families for sample in family.samples)
    return next((sample.value for sample in samples if (sample.name, sample.labels.get("topic")) == (name, topic)), None)
