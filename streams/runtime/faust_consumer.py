"""Batches below Faust's agents: what its consumer fetches goes to the stages as it comes, by the partition.

Faust's own way (a message through conductor, channel, stream and event) costs a third of a millisecond for each. The group,
its rebalances and the fetching itself stay Faust's.
"""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any, Protocol

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.contract.messages import RawRecord

log = structlog.get_logger()

FETCH_WAIT_S = 1.0
FULL_WAIT_S = 0.05  # how long the partitions of a full stage go unasked at most


class Receiver(Protocol):
    """Who gets what is fetched."""

    def has_room(self, topic: str) -> bool: ...

    def put(self, topic: str, records: list[RawRecord]) -> None: ...


class BatchConsumer(driver.Consumer):  # type: ignore[misc]  # Faust's driver has no types
    """Fetches for a receiver, only from topics that it has room for: a stage that waits holds up no other."""

    receiver: Receiver
    _rewound = -1  # the assignment that was begun from its commits

    async def _drain_messages(self, fetcher: Any) -> None:
        """What Faust's fetcher runs from the first assignment on until it is stopped."""
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                await self._fetch()
        except (asyncio.CancelledError, *self.consumer_stopped_errors):
            if not self.transport.app.should_stop:
                raise

    async def _fetch(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if self.app.rebalancing:  # Faust stops the flow only of who had partitions
            await self.sleep(FULL_WAIT_S)
            return
        generation = self.app.consumer_generation_id
        if generation != self._rewound:
            try:
                await self._rewind()
                self._rewound = generation
            except KafkaError as error:  # partitions are handed out anew again
                log.warning("rewind_failed", error=repr(error), consequence="tried again")
                await self.sleep(FULL_WAIT_S)
            return
        assigned: Collection[TP] = self._get_active_partitions()
        ready = {tp for tp in assigned if self.receiver.has_room(tp.topic)}
        if not ready:
            await self.sleep(FULL_WAIT_S)
            return
        fetched = await self._getmany(ready, FETCH_WAIT_S if len(ready) == len(assigned) else FULL_WAIT_S)
        if not self.flow_active or generation != self.app.consumer_generation_id:
            return  # partitions are handed out anew; what has been fetched is read again from the commits
        for tp, records in fetched.items():
            self.receiver.put(tp.topic, list(map(_raw, records)))

    async def _rewind(self) -> None:
        """Begin an assignment from the commits, or from the start of partitions that have none, or one of 0.

        Faust seeks to commits only, before it lets anybody fetch again; a fetch that was under way meanwhile and is dropped has
        moved the position of a partition without a commit for good.
        """
        committed = await self.seek_to_committed() if self.assignment() else {}
        if new := [ensure_TP(tp) for tp, offset in committed.items() if not offset]:
            await self.seek_wait(await self.earliest_offsets(*new))


def install(app: faust.App, receiver: Receiver, topics: Iterable[str]) -> None:
    """Have an application fetch these topics for a receiver."""
    consumer = type("Consumer", (BatchConsumer,), {"receiver": receiver})
    app.transport = type("Transport", (driver.Transport,), {"Consumer": consumer})(app.conf.broker_consumer, app)
    for topic in topics:
        app.topics.add(app.topic(topic, key_serializer="raw", value_serializer="raw", acks=False))


def _raw(record: Any) -> RawRecord:
    headers = tuple(record.headers)
    return RawRecord(record.topic, record.key, record.value, record.timestamp, headers, record.partition, record.offset)
