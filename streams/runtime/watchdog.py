"""The watchdog: a worker is healthy if its committed offsets advance while there is lag.

Consumers have been known to stall for days in a process that looks healthy. So the watchdog queries offsets from the brokers,
over a connection independent of Faust.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from kafka import KafkaConsumer, TopicPartition

from reaseq.settings import Settings
from streams.delivery import metrics
from streams.delivery.delivery import Delivery
from streams.runtime.kafka.consumer import new_consumer
from streams.runtime.kafka.lag import read_offsets

log = structlog.get_logger()

CHECKS_PER_STALL = 5

Offsets = dict[tuple[str, int], tuple[int, int]]  # committed and end offset, by (topic, partition)


@dataclass(frozen=True)
class Stall:
    """A topic in which this worker has not committed for too long despite lag."""

    topic: str
    seconds: float
    waiting_for: tuple[str, ...]  # reason codes of what batches wait for
    in_flight: int  # batches

    @property
    def consumer_stuck(self) -> bool:
        """Whether the consumer is stalled rather than the work: no batch is in flight that could still advance."""
        return not self.in_flight

    def __str__(self) -> str:
        why = f"waiting for {', '.join(self.waiting_for)}" if self.waiting_for else f"{self.in_flight} batches in flight"
        return f"no progress on {self.topic} for {self.seconds:.0f} s, {why}"


class Watchdog:
    """Compares committed offsets with the ends of this worker's partitions, in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        group_id: str,
        deliveries: Sequence[Delivery],
        assigned: Callable[[], set[tuple[str, int]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._group_id = group_id
        self._deliveries = deliveries
        self._assigned = assigned
        self._clock = clock
        self._unchanged: dict[tuple[str, int], tuple[int, float]] = {}  # partitions with lag: committed offset, since when
        self._stalls: list[Stall] = []

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stalls(self) -> list[Stall]:
        """The stalled topics, as of the last check."""
        return self._stalls

    def check(self, offsets: Offsets) -> None:
        """Update the stalls from the offsets of all assigned partitions."""
        now_s = self._clock()
        unchanged: dict[tuple[str, int], tuple[int, float]] = {}
        for tp, (committed, end) in offsets.items():
            if committed < end:
                before = self._unchanged.get(tp)
                unchanged[tp] = before if before and before[0] == committed else (committed, now_s)
        self._unchanged = unchanged
        longest_s: dict[str, float] = dict.fromkeys((topic for topic, _ in offsets), 0.0)
        for (topic, _), (_, since_s) in unchanged.items():
            longest_s[topic] = max(longest_s[topic], now_s - since_s)
        for topic, seconds in longest_s.items():
            metrics.STALLED.labels(topic).set(seconds)
        limit_s = self._settings.worker.stall_s
        self._stalls = [self._build_stall(topic, seconds) for topic, seconds in longest_s.items() if seconds >= limit_s]

    def _build_stall(self, topic: str, seconds: float) -> Stall:
        readers = [delivery for delivery in self._deliveries if delivery.stage.source.name == topic]
        waiting_for = tuple(sorted({reason for delivery in readers for reason in tuple(delivery.waiting_for)}))
        return Stall(topic, seconds, waiting_for, sum(delivery.in_flight for delivery in readers))

    def _run(self) -> None:
        consumer = None
        while True:
            time.sleep(self._settings.worker.stall_s / CHECKS_PER_STALL)
            try:
                consumer = consumer or new_consumer(self._settings.kafka, self._group_id)
                offsets = self._query(consumer)
                _set_lag(offsets)
                self.check(offsets)
            except Exception as error:  # without a broker, nothing advances: count every lagging partition as unchanged
                log.warning("offsets_unknown", error=str(error))
                self.check({tp: (committed, committed + 1) for tp, (committed, _) in self._unchanged.items()})

    def _query(self, consumer: KafkaConsumer) -> Offsets:
        offsets = read_offsets(consumer, [TopicPartition(*tp) for tp in self._assigned()])
        return {(tp.topic, tp.partition): (partition.reached, partition.end) for tp, partition in offsets.items()}


def _set_lag(offsets: Offsets) -> None:
    lag = Counter[str]()
    for (topic, _), (committed, end) in offsets.items():
        lag[topic] += end - committed
    for topic, records in lag.items():
        metrics.LAG.labels(topic).set(records)
