"""The in-process runtime: the same stages and the same delivery contract, without a broker.

The quick start and the tests use it. A topic is a list in memory; each stage reads it at its own pace.
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from streams.contract.delivery import Delivery
from streams.contract.messages import RawRecord, encode
from streams.contract.stage import Stage
from streams.contract.topics import DEAD_LETTERS
from streams.runtime.in_flight import InFlight

Receiver = Callable[[list[RawRecord]], None]


class InProcessBroker:
    """Topics in memory. Whoever subscribes gets the records produced from then on; dead letters are kept."""

    limit_bytes = sys.maxsize

    def __init__(self) -> None:
        self.dead_letters: list[RawRecord] = []
        self._subscribers: dict[str, list[Receiver]] = defaultdict(list)
        self._produced: Counter[str] = Counter()

    def subscribe(self, topic: str, receive: Receiver) -> None:
        """Call `receive` with the records that one call produces to `topic`, in their order."""
        self._subscribers[topic].append(receive)

    async def produce(self, records: Sequence[RawRecord]) -> None:
        """Append the records and hand them out, in their order."""
        by_topic: dict[str, list[RawRecord]] = defaultdict(list)
        for record in records:
            self._produced[record.topic] += 1
            by_topic[record.topic].append(record._replace(offset=self._produced[record.topic] - 1))
        self.dead_letters += by_topic[DEAD_LETTERS.name]
        for topic, produced in by_topic.items():
            for receive in self._subscribers[topic]:
                receive(produced)


class InProcessRuntime:
    """Runs stages over an in-process log, batch after batch, until nothing is left to do."""

    def __init__(self, log: InProcessBroker, deliver: Callable[[Stage], Delivery], stages: Sequence[Stage]) -> None:
        self._log = log
        self._queues = [_Queue(deliver(stage)) for stage in stages]
        for queue in self._queues:
            log.subscribe(queue.delivery.stage.source.name, queue.extend)

    async def publish(self, records: Sequence[msgspec.Struct]) -> None:
        """Produce records as a catalog or a shop would, stamped with this moment."""
        now_ms = int(time.time() * 1000)
        await self._log.produce([encode(record, now_ms) for record in records])

    async def run_until_idle(self, flush: bool = False) -> None:
        """Work until no stage has a due batch: a full one, or one whose first record has waited long enough.

        `flush` takes every batch for due.
        """
        busy = True
        while busy:
            busy = False
            for queue in self._queues:
                busy |= await queue.work(flush)


class _Queue:
    """What one stage has not taken yet."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self._waiting: list[RawRecord] = []
        self._first_at = 0.0

    def extend(self, records: list[RawRecord]) -> None:
        if not self._waiting:
            self._first_at = time.monotonic()
        self._waiting += records

    async def work(self, flush: bool) -> bool:
        """Handle due batches, as many at once as the policy allows, until none is due; whether there was one."""
        worked = False
        in_flight = InFlight(self.delivery.stage.batch.in_flight)
        while batch := self._take(flush):
            worked = True
            await in_flight.start(batch, partial(self.delivery.handle, batch))
        await in_flight.drain()
        return worked

    def _take(self, flush: bool) -> list[RawRecord]:
        policy = self.delivery.stage.batch
        full = len(self._waiting) >= policy.limit_records
        if not self._waiting or not (full or flush or time.monotonic() - self._first_at >= policy.wait_s):
            return []
        batch, self._waiting = self._waiting[: policy.limit_records], self._waiting[policy.limit_records :]
        self._first_at = time.monotonic()
        return batch
