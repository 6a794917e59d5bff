"""Tails a topic, to keep a full copy of a table in each process."""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from reaseq.backoff import Backoff
from reaseq.errors import DeliveryError
from reaseq.settings import KafkaSettings
from streams.delivery import metrics
from streams.delivery.messages import RawRecord
from streams.delivery.topics import Topic
from streams.runtime.kafka.consumer import POLL_MS, list_partitions, new_consumer, seek_to_time

log = structlog.get_logger()

POLL_LIMIT_RECORDS = 2000
CHECK_S = 0.5
RECONNECT = Backoff(first_s=0.5, limit_s=15.0)


class TopicTailer:
    """Tails all partitions of a topic in a thread of its own, without a consumer group.

    It starts at the beginning of the topic, at the records produced since `since_ms`, or at the `last_records` of each
    partition. `caught_up` is set once everything present at the start has been passed to `receive`. Without a broker or without
    the topic, it tries again until it finds them, and goes on where it was. If `receive` raises, the tailer ends, and `failure`
    says why: only a restart helps.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: Topic,
        receive: Callable[[Sequence[RawRecord]], object],
        since_ms: int | None = None,
        last_records: int | None = None,
    ) -> None:
        self.caught_up = threading.Event()
        self.failure: str | None = None
        self._topic = topic
        self._receive = receive
        self._settings = settings
        self._since_ms, self._last_records = since_ms, last_records
        self._stop = threading.Event()
        self._positions: dict[TopicPartition, int] = {}  # offsets of the next records to pass to `receive`
        self._attempt = 0  # failed connections in a row
        self._thread = threading.Thread(target=self._run, name=f"tail-{topic.name}", daemon=True)

    def start(self) -> "TopicTailer":
        """Start the thread."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop and join the thread."""
        self._stop.set()
        self._thread.join()

    def wait(self) -> None:
        """Block until `caught_up`. Raises DeliveryError if the tailer failed."""
        while not self.caught_up.wait(CHECK_S):
            if self.failure:
                raise DeliveryError(self.failure)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with closing(new_consumer(self._settings)) as consumer:
                    self._tail(consumer)
            except (KafkaError, DeliveryError) as error:
                wait_s = RECONNECT.wait_s(self._attempt)
                log.warning("tailer_disconnected", topic=self._topic.name, retry_in_s=wait_s, error=str(error))
                self._attempt += 1
                self._stop.wait(wait_s)
            except Exception as error:
                log.exception("tailer_failed", topic=self._topic.name)
                self.failure = f"tailing {self._topic.name} failed: {error!r}"
                return

    def _tail(self, consumer: KafkaConsumer) -> None:
        partitions = list_partitions(consumer, self._topic.name)
        consumer.assign(partitions)
        self._seek(consumer, partitions)
        ends = consumer.end_offsets(partitions)
        while not self._stop.is_set():
            polled = consumer.poll(timeout_ms=POLL_MS, max_records=POLL_LIMIT_RECORDS)
            records = [RawRecord.from_broker(record) for batch in polled.values() for record in batch]
            if records:
                self._receive(records)
            self._positions = {tp: consumer.position(tp) for tp in partitions}
            metrics.TAILED.labels(self._topic.name).set(sum(self._positions.values()))
            self._attempt = 0
            if not self.caught_up.is_set() and all(self._positions[tp] >= end for tp, end in ends.items()):
                self.caught_up.set()

    def _seek(self, consumer: KafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        consumer.seek_to_beginning(*partitions)
        if self._since_ms is not None:
            seek_to_time(consumer, partitions, self._since_ms)
        if self._last_records is not None:
            for tp, end in consumer.end_offsets(partitions).items():
                consumer.seek(tp, max(0, end - self._last_records))
        for tp, position in self._positions.items():
            consumer.seek(tp, position)
