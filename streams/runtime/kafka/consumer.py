"""Opens kafka-python consumers, and lists and seeks partitions. Only Faust's consumer joins a group; these do not."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from reaseq.errors import DeliveryError
from reaseq.settings import KafkaSettings
from streams.runtime.kafka.connection import ISOLATION_LEVEL, broker_errors, client_options

POLL_MS = 200
QUERY_TIMEOUT_MS = 10_000  # a user waits for the result
START_TIMEOUT_MS = 60_000  # the brokers may be starting as well
RECONNECT_LIMIT_MS = 2000  # by default, readers would be up to half a minute late after an outage


class _Consumer(KafkaConsumer):  # type: ignore[misc]  # the library has no types
    """Closes its client if no broker answers; KafkaConsumer would leave a thread and sockets behind."""

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except KafkaError:
            if client := self.__dict__.get("_client"):
                client.close()
            raise


def new_consumer(settings: KafkaSettings, group_id: str | None = None, timeout_ms: int = START_TIMEOUT_MS) -> KafkaConsumer:
    """A consumer of raw bytes without auto-commit, which reads committed records only.

    Raises KafkaError if no broker answers within `timeout_ms`.
    """
    return _Consumer(
        **client_options(settings),
        group_id=group_id,
        bootstrap_timeout_ms=timeout_ms,
        reconnect_backoff_max_ms=RECONNECT_LIMIT_MS,
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # an offset that retention has deleted; the default would skip to the end
        isolation_level=ISOLATION_LEVEL,
        max_partition_fetch_bytes=settings.record_limit_bytes,
    )


@contextmanager
def query_consumer(settings: KafkaSettings, group_id: str | None = None) -> Iterator[KafkaConsumer]:
    """A consumer for one short query. Raises BrokerUnavailable."""
    with broker_errors(settings), closing(new_consumer(settings, group_id, QUERY_TIMEOUT_MS)) as consumer:
        yield consumer


def list_partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """The partitions of a topic, in order. Raises DeliveryError if the topic does not exist."""
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise DeliveryError(f"topic {topic!r} does not exist: run `reaseq setup` first")
    return [TopicPartition(topic, number) for number in sorted(numbers)]


def seek_to_time(consumer: KafkaConsumer, partitions: Sequence[TopicPartition], since_ms: int) -> None:
    """Seek to the first record of each partition that was produced at or after `since_ms`, or to its end."""
    for tp, found in consumer.offsets_for_times(dict.fromkeys(partitions, since_ms)).items():
        if found:
            consumer.seek(tp, found.offset)
        else:
            consumer.seek_to_end(tp)
