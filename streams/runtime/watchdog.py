"""The watchdog: a worker lives as long as its committed offsets move while there is something to do.

Consumers have been known to stand still for days in a process that looks well. So offsets are asked of the broker itself, over
a connection that Faust knows nothing of.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from kafka import TopicPartition

from reaseq.settings import Settings
from streams.contract import metrics
from streams.contract.delivery import Delivery
from streams.runtime.kafka_clients import new_consumer

log = structlog.get_logger()

CHECKS_PER_STALL = 5


@dataclass(frozen=True)
class Stall:
    """A topic of which this worker has not committed anything for too long, though there is something to do."""

    topic: str
    seconds: float
    waiting_for: tuple[str, ...]  # what its batches wait for, as far as they say
    in_hand: int  # batches under way

    @property
    def dead(self) -> bool:
        """Whether nothing is under way that could still move it: the consumer, not the work, stands still."""
        return not self.in_hand

    def __str__(self) -> str:
        why = f"waiting for {', '.join(self.waiting_for)}" if self.waiting_for else f"{self.in_hand} batches under way"
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
        self._still: dict[tuple[str, int], tuple[int, float]] = {}  # of what is behind: committed offset, and since when
        self._stalls: list[Stall] = []

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stalls(self) -> list[Stall]:
        """What stands still, as of the last look."""
        return self._stalls

    def look(self, offsets: dict[tuple[str, int], tuple[int, int]]) -> None:
        """Take in committed offset and end of each partition that is assigned."""
        now = self._clock()
        still: dict[tuple[str, int], tuple[int, float]] = {}
        for tp, (committed, end) in offsets.items():
            if committed < end:
                before = self._still.get(tp)
                still[tp] = before if before and before[0] == committed else (committed, now)
        self._still = still
        longest: dict[str, float] = dict.fromkeys((topic for topic, _ in offsets), 0.0)
        for (topic, _), (_, since) in still.items():
            longest[topic] = max(longest[topic], now - since)
        for topic, seconds in longest.items():
            metrics.STALLED.labels(topic).set(seconds)
        self._stalls = [
            self._stall(topic, seconds) for topic, seconds in longest.items() if seconds >= self._settings.worker.stall_s
        ]

    def _stall(self, topic: str, seconds: float) -> Stall:
        readers = [delivery for delivery in self._deliveries if delivery.stage.source.name == topic]
        waiting_for = tuple(sorted({reason for delivery in readers for reason in tuple(delivery.waiting_for)}))
        return Stall(topic, seconds, waiting_for, sum(delivery.in_hand for delivery in readers))

    def _run(self) -> None:
        consumer = None
        while True:
            time.sleep(self._settings.worker.stall_s / CHECKS_PER_STALL)
            try:
                consumer = consumer or new_consumer(self._settings.kafka, self._group_id)
                partitions = [TopicPartition(*tp) for tp in self._assigned()]
                starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
                committed = {tp: consumer.committed(tp) for tp in partitions}
                offsets = {(tp.topic, tp.partition): (max(committed[tp] or 0, starts[tp]), ends[tp]) for tp in partitions}
                _tell_lag(offsets)
                self.look(offsets)
            except Exception as error:  # without a broker nothing moves either
                log.warning("offsets_unknown", error=str(error))
                self.look({tp: (committed, committed + 1) for tp, (committed, _) in self._still.items()})


def _tell_lag(offsets: dict[tuple[str, int], tuple[int, int]]) -> None:
    lag = Counter[str]()
    for (topic, _), (committed, end) in offsets.items():
        lag[topic] += end - committed
    for topic, records in lag.items():
        metrics.LAG.labels(topic).set(records)
