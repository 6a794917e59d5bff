"""Kafka outside the stream workers: creating topics, producing, following a topic, and measuring lag (kafka-python)."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec
import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from reaseq.errors import BrokerUnavailable, DeliveryError, ReaSeqError
from reaseq.settings import KafkaSettings
from streams.contract import metrics
from streams.contract.messages import RawRecord, encode
from streams.contract.topics import DEAD_LETTER_MARGIN_BYTES, TOPICS, Topic
from streams.runtime.kafka_connection import client_options

log = structlog.get_logger()

Role = Literal["all", "stream", "reasoning"]

POLL_MS = 200
LOOK_TIMEOUT_MS = 10_000  # somebody waits
START_TIMEOUT_MS = 60_000  # brokers may be starting as well
SILENCE_S = 30.0
CHECK_S = 0.5
CONFIRM_TIMEOUT_S = 60.0


def create_topics(settings: KafkaSettings) -> list[str]:
    """Create the topics that are missing; returns their names. One that is there stays as it is. Raises BrokerUnavailable."""
    with _reached(settings), closing(KafkaAdminClient(**client_options(settings))) as admin:
        present = set(admin.list_topics())
        missing = [topic for topic in TOPICS if topic.name not in present]
        try:
            if missing:
                admin.create_topics([_new_topic(topic, settings) for topic in missing])
        except TopicAlreadyExistsError:
            log.info("topics_created_by_another_process")
        return [topic.name for topic in missing]


def _new_topic(topic: Topic, settings: KafkaSettings) -> NewTopic:
    config = {
        "cleanup.policy": topic.cleanup,
        "max.message.bytes": str(settings.max_message_bytes + DEAD_LETTER_MARGIN_BYTES),
        "min.insync.replicas": str(settings.min_insync_replicas),
    }
    if topic.retention_ms:
        config["retention.ms"] = str(topic.retention_ms)
    return NewTopic(topic.name, settings.partitions, settings.replication_factor, topic_configs=config)


class Producer:
    """Produces records and confirms each: acks from all in-sync replicas, idempotent, lz4. Raises BrokerUnavailable."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        with _reached(settings):
            self._producer = KafkaProducer(
                **client_options(settings),
                acks="all",
                enable_idempotence=True,
                compression_type="lz4",
                linger_ms=20,
                max_request_size=settings.max_message_bytes + DEAD_LETTER_MARGIN_BYTES,
            )

    def send(self, records: Iterable[msgspec.Struct]) -> int:
        """Produce records, stamped with this moment; returns how many when all are confirmed."""
        now_ms = int(time.time() * 1000)
        return self.send_raw(encode(record, now_ms) for record in records)

    def send_raw(self, records: Iterable[RawRecord]) -> int:
        """The same for records as bytes."""
        with _reached(self._settings):
            sent = [
                self._producer.send(
                    record.topic,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    timestamp_ms=record.timestamp_ms,
                )
                for record in records
            ]
            self._producer.flush(timeout=CONFIRM_TIMEOUT_S)
            for future in sent:
                future.get(timeout=CONFIRM_TIMEOUT_S)
        return len(sent)

    def close(self) -> None:
        """Close the connections."""
        self._producer.close()


class TopicTailer:
    """Follows a topic from its start, all partitions, without a consumer group: for tables that every process keeps whole.

    `caught_up` is set once everything that was there at the start has been handed on. A failure ends the tailer, and
    `check` raises it.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: Topic,
        receive: Callable[[Sequence[RawRecord]], None],
        since_ms: int | None = None,
    ) -> None:
        self.caught_up = threading.Event()
        self._topic = topic
        self._receive = receive
        self._settings = settings
        self._since_ms = since_ms
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"follow-{topic.name}", daemon=True)

    def start(self) -> "TopicTailer":
        """Begin to follow, in a thread of its own."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop and wait for the thread."""
        self._stop.set()
        self._thread.join()

    def wait(self) -> None:
        """Return when everything that was there at the start has been handed on. Raises DeliveryError."""
        while not self.caught_up.wait(CHECK_S):
            self.check()

    def check(self) -> None:
        """Raise DeliveryError if following has failed."""
        if self._failure:
            raise DeliveryError(f"following {self._topic.name} failed: {self._failure}") from self._failure

    def _run(self) -> None:
        try:
            with closing(new_consumer(self._settings)) as consumer:
                self._tail(consumer)
        except Exception as error:
            log.exception("tailer_failed", topic=self._topic.name)
            self._failure = error

    def _tail(self, consumer: KafkaConsumer) -> None:
        partitions = _partitions(consumer, self._topic.name)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        if self._since_ms is not None:
            _seek_to_time(consumer, partitions, self._since_ms)
        ends = consumer.end_offsets(partitions)
        while not self._stop.is_set():
            polled = consumer.poll(timeout_ms=POLL_MS, max_records=2000)
            records = [_raw(record) for batch in polled.values() for record in batch]
            if records:
                self._receive(records)
                metrics.TAILED.labels(self._topic.name).set(sum(map(consumer.position, partitions)))
            if not self.caught_up.is_set() and all(consumer.position(tp) >= end for tp, end in ends.items()):
                self.caught_up.set()


def read_all(settings: KafkaSettings, topic: Topic) -> Iterator[RawRecord]:
    """Every record that the topic holds at this moment. Raises BrokerUnavailable."""
    with _consumer(settings) as consumer:
        partitions = _partitions(consumer, topic.name)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        heard_s = time.monotonic()
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for batch in consumer.poll(timeout_ms=POLL_MS).values():
                yield from map(_raw, batch)
                heard_s = time.monotonic()
            if time.monotonic() - heard_s > SILENCE_S:
                raise BrokerUnavailable(f"the brokers at {settings.bootstrap_servers} give no more of {topic.name}")


def sample(settings: KafkaSettings, topic: Topic, records: int, generator: random.Random) -> list[RawRecord]:
    """About so many records from a random place in a random partition of the topic, as they follow each other there.

    Raises BrokerUnavailable.
    """
    with _consumer(settings) as consumer:
        tp = generator.choice(_partitions(consumer, topic.name))
        start, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        found: list[RawRecord] = []
        consumer.assign([tp])
        consumer.seek(tp, max(start, generator.randrange(start, end + 1) - records))
        while len(found) < records and consumer.position(tp) < end:
            polled = consumer.poll(timeout_ms=POLL_MS, max_records=records - len(found))
            found += [_raw(record) for batch in polled.values() for record in batch]
        return found


def parse_role(name: str) -> Role:
    """The role of that name. Raises ReaSeqError where there is none."""
    roles = get_args(Role)
    if name not in roles:
        raise ReaSeqError(f"no role {name!r}; there are {', '.join(roles)}")
    return name  # type: ignore[return-value]


def consumer_group(settings: KafkaSettings, role: Role) -> str:
    """The consumer group of workers of a role. All members of a group read the same topics."""
    return f"{settings.group_id}-{role}" if role == "reasoning" else settings.group_id


@dataclass(frozen=True)
class Lag:
    """How many records a topic holds, how many of them a group has not acknowledged, and whether it ever did any."""

    held: int
    unacknowledged: int
    begun: bool


def lags(settings: KafkaSettings, group_id: str, topics: Sequence[Topic]) -> dict[str, Lag]:
    """The lag of a group in each topic. Raises BrokerUnavailable."""
    with _consumer(settings, group_id) as consumer:
        found = {}
        for topic in topics:
            partitions = _partitions(consumer, topic.name)
            starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            committed = {tp: consumer.committed(tp, timeout_ms=LOOK_TIMEOUT_MS) for tp in partitions}
            behind = sum(max(ends[tp] - (committed[tp] or starts[tp]), 0) for tp in partitions)
            held = sum(ends[tp] - starts[tp] for tp in partitions)
            found[topic.name] = Lag(held, behind, any(committed.values()))
        return found


@contextmanager
def _consumer(settings: KafkaSettings, group_id: str | None = None) -> Iterator[KafkaConsumer]:
    """A consumer for a look at what is there now."""
    with _reached(settings), closing(new_consumer(settings, group_id, LOOK_TIMEOUT_MS)) as consumer:
        yield consumer


@contextmanager
def _reached(settings: KafkaSettings) -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise BrokerUnavailable(f"the brokers at {settings.bootstrap_servers} do not answer: {error}") from error


class _Consumer(KafkaConsumer):  # type: ignore[misc]  # the library has no types
    """One that leaves nothing behind where no broker answers: a thread and sockets, if it were the library's own."""

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except KafkaError:
            if client := self.__dict__.get("_client"):
                client.close()
            raise


def new_consumer(settings: KafkaSettings, group_id: str | None = None, timeout_ms: int = START_TIMEOUT_MS) -> KafkaConsumer:
    """A consumer of raw bytes that commits nothing by itself. Brokers have so long to answer first."""
    return _Consumer(
        **client_options(settings),
        group_id=group_id,
        bootstrap_timeout_ms=timeout_ms,
        enable_auto_commit=False,
        max_partition_fetch_bytes=settings.max_message_bytes + DEAD_LETTER_MARGIN_BYTES,
    )


def _partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise DeliveryError(f"there is no topic {topic!r}: run `reaseq setup` first")
    return [TopicPartition(topic, number) for number in sorted(numbers)]


def _seek_to_time(consumer: KafkaConsumer, partitions: Sequence[TopicPartition], since_ms: int) -> None:
    for tp, found in consumer.offsets_for_times(dict.fromkeys(partitions, since_ms)).items():
        if found:
            consumer.seek(tp, found.offset)
        else:
            consumer.seek_to_end(tp)


def _raw(record: Any) -> RawRecord:
    headers = tuple(record.headers)
    return RawRecord(record.topic, record.key, record.value, record.timestamp, headers, record.partition, record.offset)
