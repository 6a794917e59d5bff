"""Tails a topic, to keep a full copy of a table in each process."""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing

import structlog
from kafka import KafkaConsumer

from reaseq.errors import DeliveryError
from reaseq.settings import KafkaSettings
from streams.delivery import metrics
from streams.delivery.messages import RawRecord
from streams.delivery.topics import Topic
from streams.runtime.kafka.consumer import POLL_MS, list_partitions, new_consumer, seek_to_time

log = structlog.get_logger()

POLL_LIMIT_RECORDS = 2000
CHECK_S = 0.5


class TopicTailer:
    """Tails all partitions of a topic in a thread of its own, without a consumer group.

    It starts at the beginning of the topic, or at the records produced since `since_ms`. `caught_up` is set once everything
    present at the start has been passed to `receive`. A failure ends the tailer; `check` raises it.
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
            self.check()

    def check(self) -> None:
        """Raise DeliveryError if the tailer failed."""
        if self._failure:
            raise DeliveryError(f"tailing {self._topic.name} failed: {self._failure}") from self._failure

    def _run(self) -> None:
        try:
            with closing(new_consumer(self._settings)) as consumer:
                self._tail(consumer)
        except Exception as error:
            log.exception("tailer_failed", topic=self._topic.name)
            self._failure = error

    def _tail(self, consumer: KafkaConsumer) -> None:
        partitions = list_partitions(consumer, self._topic.name)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        if self._since_ms is not None:
            seek_to_time(consumer, partitions, self._since_ms)
        ends = consumer.end_offsets(partitions)
        while not self._stop.is_set():
            polled = consumer.poll(timeout_ms=POLL_MS, max_records=POLL_LIMIT_RECORDS)
            records = [RawRecord.from_broker(record) for batch in polled.values() for record in batch]
            if records:
                self._receive(records)
                metrics.TAILED.labels(self._topic.name).set(sum(map(consumer.position, partitions)))
            if not self.caught_up.is_set() and all(consumer.position(tp) >= end for tp, end in ends.items()):
                self.caught_up.set()
