"""A Faust consumer that passes fetched records to the stages in batches, by partition, below Faust's agents.

Faust's own path (each message through conductor, channel, stream and event) costs a third of a millisecond per message. The
consumer group, rebalances and fetching remain Faust's.

The private names of Faust used here and in `faust_runtime.py` are listed in docs/adr/0001-faust-below-its-agents.md;
tests/unit/streams/runtime/test_faust_internals.py checks that they exist.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.delivery.messages import RawRecord
from streams.runtime.kafka.connection import ISOLATION_LEVEL

log = structlog.get_logger()

FETCH_WAIT_S = 1.0
PAUSE_S = 0.05  # longest time between checks for room, or for the end of a rebalance


class Receiver(Protocol):
    """Receives fetched records."""

    def has_room(self, topic: str) -> bool: ...

    def put(self, fetched: Mapping[TP, list[RawRecord]], positions: Mapping[TP, int]) -> None: ...


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust's driver has no types
    """Reads committed records only, which Faust does only if it produces in transactions itself."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = ISOLATION_LEVEL
        return consumer

    async def positions(self, partitions: Collection[TP]) -> dict[TP, int]:
        """How far the partitions have been read, which may be past their last record; empty if one is no longer assigned."""
        try:
            found: dict[TP, int] = await self.call_thread(self._positions, partitions)
        except KafkaError:
            return {}
        return found

    async def _positions(self, partitions: Collection[TP]) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        return {tp: await consumer.position(tp) for tp in partitions}


class BatchConsumer(driver.Consumer):  # type: ignore[misc]  # Faust's driver has no types
    """Fetches only from topics for which the receiver has room, so a stage that waits does not block the others."""

    receiver: Receiver
    _rewound_generation = -1  # of the consumer group

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Fetch until stopped. Faust's fetcher calls this once, from the first assignment on."""
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                await self._fetch()
        except (asyncio.CancelledError, *self.consumer_stopped_errors):
            if not self.transport.app.should_stop:
                raise

    async def _fetch(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if self.app.rebalancing:  # Faust stops the flow only of a worker that had partitions
            await self.sleep(PAUSE_S)
            return
        generation = self.app.consumer_generation_id
        if generation != self._rewound_generation:
            try:
                await self._rewind()
                self._rewound_generation = generation
            except KafkaError as error:  # the group rebalances again
                log.warning("rewind_failed", error=repr(error), consequence="retried")
                await self.sleep(PAUSE_S)
            return
        assigned: Collection[TP] = self._get_active_partitions()
        ready = {tp for tp in assigned if self.receiver.has_room(tp.topic)}
        if not ready:
            await self.sleep(PAUSE_S)
            return
        fetched = await self._getmany(ready, FETCH_WAIT_S if len(ready) == len(assigned) else PAUSE_S)
        positions = await self._thread.positions(ready)
        if not self.flow_active or generation != self.app.consumer_generation_id:
            return  # the group is rebalancing: drop the records, which are fetched again from the committed offsets
        self.receiver.put({tp: list(map(RawRecord.from_broker, records)) for tp, records in fetched.items()}, positions)

    async def _rewind(self) -> None:
        """Seek to the committed offset of each partition, or to its start if it has none, or one of 0.

        Faust seeks only to committed offsets, before it resumes fetching. In a partition without one, the records of a fetch
        that is dropped because of a rebalance would be skipped for good.
        """
        committed = await self.seek_to_committed() if self.assignment() else {}
        if new := [ensure_TP(tp) for tp, offset in committed.items() if not offset]:
            await self.seek_wait(await self.earliest_offsets(*new))


def install_consumer(app: faust.App, receiver: Receiver, topics: Iterable[str]) -> None:
    """Make an application fetch these topics for a receiver."""
    consumer = type("Consumer", (BatchConsumer,), {"receiver": receiver})
    app.transport = type("Transport", (driver.Transport,), {"Consumer": consumer})(app.conf.broker_consumer, app)
    for topic in topics:
        app.topics.add(app.topic(topic, key_serializer="raw", value_serializer="raw", acks=False))
