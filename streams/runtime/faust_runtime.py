"""The Faust runtime: the stages on Kafka, with Faust's streams and acknowledgement left out and ours in their place.

Faust acknowledges on an exception, drops on a stop what a batch still holds, and loses count when partitions are handed out
anew. Here a batch goes through `Delivery`, and only then counts as finished; commits are made from that account alone. What
escapes `Delivery` must not be committed by anyone: the process ends at once, and the group hands its partitions on.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from functools import partial
from itertools import chain

import faust
import structlog
from aiokafka import AIOKafkaProducer
from faust.types import TP

from reaseq.settings import Settings
from streams.contract.delivery import Delivery
from streams.contract.messages import RawRecord
from streams.contract.topics import DEAD_LETTER_MARGIN_BYTES
from streams.runtime.batch_buffer import BatchBuffer
from streams.runtime.faust_consumer import install
from streams.runtime.in_flight import InFlight
from streams.runtime.kafka_connection import client_options, faust_credentials
from streams.runtime.offset_tracker import OffsetTracker, StartOffsets

log = structlog.get_logger()

EXIT_UNDELIVERED = 70  # EX_SOFTWARE: the worker could neither deliver nor to_dead_letter a record
COMMIT_INTERVAL_S = 1.0
FETCH_LIMIT_RECORDS = 2000
NEVER_S = 1e6


class KafkaRecordProducer:
    """Produces with confirmation: idempotent, acks from all in-sync replicas. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.kafka
        self.limit_bytes = settings.kafka.max_message_bytes
        self._producer: AIOKafkaProducer | None = None

    async def produce(self, records: Sequence[RawRecord]) -> None:
        """Append the records; returns when the broker has confirmed all."""
        if not records:
            return
        producer = await self._started()
        pending = [
            await producer.send(
                record.topic,
                value=record.value,
                key=record.key,
                timestamp_ms=record.timestamp_ms,
                headers=list(record.headers),
            )
            for record in records
        ]
        await asyncio.gather(*pending)

    async def close(self) -> None:
        """Send what is left and close the connections."""
        if self._producer:
            await self._producer.stop()

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = AIOKafkaProducer(
                **client_options(self._settings),
                enable_idempotence=True,
                acks="all",
                compression_type="lz4",
                linger_ms=5,
                max_request_size=self._settings.max_message_bytes + DEAD_LETTER_MARGIN_BYTES,
            )
            await self._producer.start()
        return self._producer


def build_app(
    settings: Settings, group_id: str, deliveries: Sequence[Delivery], producer: KafkaRecordProducer, data_dir: str
) -> faust.App:
    """A Faust application that runs the stages, each in a task of its own, and delivers to `producer`."""
    logging.getLogger("aiokafka").setLevel(logging.INFO)  # else a line is made for each record, and thrown away
    app = faust.App(
        group_id,
        broker=";".join(f"kafka://{server}" for server in settings.kafka.bootstrap_servers.split(",")),
        broker_credentials=faust_credentials(settings.kafka),
        datadir=data_dir,
        topic_disable_leader=True,
        web_enabled=False,
        broker_session_timeout=settings.kafka.session_timeout_s,
        broker_heartbeat_interval=settings.kafka.session_timeout_s / 5,
        broker_max_poll_interval=NEVER_S,  # a worker whose stages wait is not to leave; the watchdog tells who stands still
        broker_max_poll_records=FETCH_LIMIT_RECORDS,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=settings.kafka.max_message_bytes + DEAD_LETTER_MARGIN_BYTES,
    )
    runtime = _Runtime(app, deliveries, settings.worker.drain_s)

    @app.on_partitions_revoked.connect  # type: ignore[untyped-decorator]
    async def hand_over(_: object, revoked: object, **__: object) -> None:
        await runtime.drain()

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def close(_: object, **__: object) -> None:
        await runtime.end()
        await producer.close()

    @app.timer(COMMIT_INTERVAL_S)  # type: ignore[untyped-decorator]
    async def commit() -> None:
        await runtime.commit()

    return app


def assigned_to(app: faust.App) -> set[tuple[str, int]]:
    """The partitions that the application has at this moment."""
    if not app._consumer:  # not started yet
        return set()
    return {(tp.topic, tp.partition) for tp in app.consumer.assignment()}


class _Runtime:
    """The stages of an application: what each has been handed, has under way and has finished."""

    def __init__(self, app: faust.App, deliveries: Sequence[Delivery], drain_s: float) -> None:
        self._app = app
        self._drain_s = drain_s
        self._ended = False
        self._buffers: dict[str, list[BatchBuffer]] = {}
        self._readers: dict[str, list[str]] = {}
        self._flights: list[InFlight] = []
        for delivery in deliveries:
            self._add(delivery)
        self._offsets = OffsetTracker(self._readers)
        install(app, self, self._readers)

    def has_room(self, topic: str) -> bool:
        """Whether every stage that reads the topic could do with more."""
        return all(buffer.has_room for buffer in self._buffers[topic])

    def put(self, topic: str, records: list[RawRecord]) -> None:
        """Hand on what has been fetched of a topic."""
        if not self._ended:
            for buffer in self._buffers[topic]:
                buffer.put(records)

    async def commit(self) -> None:
        """Tell the broker what has been finished."""
        await self._commit(self._offsets)

    async def drain(self) -> None:
        """Finish what is under way and commit it, so that nobody else has to do it again; what takes too long is given up.

        Whoever has the partitions then starts from the commit, with an account of his own; what has not been begun by now is
        not begun any more.
        """
        account, self._offsets = self._offsets, OffsetTracker(self._readers)
        for buffer in chain.from_iterable(self._buffers.values()):
            buffer.clear()
        given_up = sum(await asyncio.gather(*(flight.finish(self._drain_s) for flight in self._flights)))
        if given_up:
            log.warning("given_up", batches=given_up, consequence="they are done again, to the same end")
        await self._commit(account)

    async def end(self) -> None:
        """The same for the last time: nothing more is begun."""
        self._ended = True
        await self.drain()

    async def _commit(self, account: OffsetTracker) -> None:
        if moved := account.to_commit():
            if await self._app.consumer._commit({TP(*partition): offset for partition, offset in moved.items()}):
                account.committed(moved)

    def _add(self, delivery: Delivery) -> None:
        stage = delivery.stage
        buffer, in_flight = BatchBuffer(stage.batch), InFlight(stage.batch.in_flight)
        self._buffers.setdefault(stage.source.name, []).append(buffer)
        self._readers.setdefault(stage.source.name, []).append(stage.name)
        self._flights.append(in_flight)

        async def work(batch: Sequence[RawRecord], offsets: OffsetTracker, starts: StartOffsets) -> None:
            if offsets is self._offsets:  # else the partitions have been handed out anew while the batch waited to begin
                await _handle(delivery, batch)
                offsets.finished(stage.name, starts)

        async def run() -> None:
            while True:
                batch = await buffer.take()
                starts = self._offsets.taken(stage.name, batch)
                await in_flight.start(batch, partial(work, batch, self._offsets, starts))

        self._app.task(run)


async def _handle(delivery: Delivery, batch: Sequence[RawRecord]) -> None:
    try:
        await delivery.handle(batch)
    except Exception:
        log.exception("undelivered", stage=delivery.stage.name, records=len(batch))
        os._exit(EXIT_UNDELIVERED)
