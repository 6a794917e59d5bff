"""The in-process runtime: the same stages and delivery contract, without a broker.

The quick start and the tests use it. Each stage has its own queue and consumes it at its own pace.
"""

import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from streams.delivery.delivery import Delivery
from streams.delivery.messages import RawRecord, encode
from streams.delivery.stage import Stage
from streams.delivery.topics import DEAD_LETTERS
from streams.runtime.in_flight import InFlight

Receiver = Callable[[list[RawRecord]], object]


class InProcessBroker:
    """Passes produced records to the subscribers of their topic; keeps only dead letters."""

    max_message_bytes = sys.maxsize

    def __init__(self) -> None:
        self.dead_letters: list[RawRecord] = []
        self._subscribers: dict[str, list[Receiver]] = defaultdict(list)
        self._produced: Counter[str] = Counter()

    def subscribe(self, topic: str, receive: Receiver) -> None:
        """From now on, call `receive` with the records of `topic` from each `produce`, in order."""
        self._subscribers[topic].append(receive)

    async def produce(self, records: Sequence[RawRecord]) -> None:
        """Assign offsets and pass the records to the subscribers, in order."""
        by_topic: dict[str, list[RawRecord]] = defaultdict(list)
        for record in records:
            self._produced[record.topic] += 1
            by_topic[record.topic].append(record._replace(offset=self._produced[record.topic] - 1))
        self.dead_letters += by_topic[DEAD_LETTERS.name]
        for topic, produced in by_topic.items():
            for receive in self._subscribers[topic]:
                receive(produced)


class InProcessRuntime:
    """Runs stages on an in-process broker, batch by batch, until they are idle."""

    def __init__(self, broker: InProcessBroker, deliver: Callable[[Stage], Delivery], stages: Sequence[Stage]) -> None:
        self._broker = broker
        self._queues = [_Queue(deliver(stage)) for stage in stages]
        for queue in self._queues:
            broker.subscribe(queue.delivery.stage.source.name, queue.extend)

    async def publish(self, records: Sequence[msgspec.Struct]) -> None:
        """Produce input records, timestamped now."""
        now_ms = int(time.time() * 1000)
        await self._broker.produce([encode(record, now_ms) for record in records])

    async def run_until_idle(self, flush: bool = False) -> None:
        """Run until no stage has a due batch: one that is full, or whose first record has waited long enough.

        With `flush`, every batch is due.
        """
        busy = True
        while busy:
            busy = False
            for queue in self._queues:
                busy |= await queue.work(flush)


class _Queue:
    """The waiting records of one stage."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self._waiting: deque[RawRecord] = deque()
        self._first_s = 0.0  # when the record now at the head got there

    def extend(self, records: list[RawRecord]) -> None:
        if not self._waiting:
            self._first_s = time.monotonic()
        self._waiting.extend(records)

    async def work(self, flush: bool) -> bool:
        """Run due batches, as many at once as the policy allows, until none is due; returns whether any was."""
        worked = False
        in_flight = InFlight(self.delivery.stage.batch.in_flight)
        while batch := self._take(flush) or await self.delivery.due_again():
            worked = True
            await in_flight.start(batch, partial(self.delivery.handle, batch))
        await in_flight.drain()
        return worked

    def _take(self, flush: bool) -> list[RawRecord]:
        policy = self.delivery.stage.batch
        full = len(self._waiting) >= policy.limit_records
        if not (full or flush or time.monotonic() - self._first_s >= policy.wait_s):
            return []
        batch = [self._waiting.popleft() for _ in range(min(policy.limit_records, len(self._waiting)))]
        self._first_s = time.monotonic()
        return batch
