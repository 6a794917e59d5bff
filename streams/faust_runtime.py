"""The Faust runtime: the stages on Kafka, with Faust's own acknowledgement switched off and ours in its place.

Faust acknowledges on an exception, drops on a stop what a batch still holds, and loses count when partitions are handed out
anew. Here a batch goes through `Delivery`, and only then counts as finished; commits are made from that account alone. What
escapes `Delivery` must not be committed by anyone: the process ends at once, and the group hands its partitions on.
"""

import asyncio
import os
from collections.abc import Sequence
from functools import partial

import faust
import structlog
from aiokafka import AIOKafkaProducer
from faust.types import TP

from reaseq.settings import Settings
from streams.delivery import Delivery
from streams.in_flight import InFlight
from streams.messages import RawRecord
from streams.offsets import Offsets, Place
from streams.topics import DEAD_LETTER_MARGIN_BYTES

log = structlog.get_logger()

EXIT_UNDELIVERED = 70  # EX_SOFTWARE: the worker could neither deliver nor bury a record
COMMIT_INTERVAL_S = 1.0


class KafkaLog:
    """Produces with confirmation: idempotent, acks from all in-sync replicas. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.kafka
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
                bootstrap_servers=self._settings.bootstrap_servers,
                enable_idempotence=True,
                acks="all",
                compression_type="lz4",
                linger_ms=5,
                max_request_size=self._settings.max_message_bytes + DEAD_LETTER_MARGIN_BYTES,
            )
            await self._producer.start()
        return self._producer


def build_app(
    settings: Settings, group_id: str, deliveries: Sequence[Delivery], destination: KafkaLog, data_dir: str
) -> faust.App:
    """A Faust application in which each stage is an agent over raw bytes, delivered to `destination`."""
    app = faust.App(
        group_id,
        broker=f"kafka://{settings.kafka.bootstrap_servers}",
        datadir=data_dir,
        key_serializer="raw",
        value_serializer="raw",
        topic_disable_leader=True,
        web_enabled=False,
        broker_session_timeout=settings.kafka.session_timeout_s,
        broker_heartbeat_interval=settings.kafka.session_timeout_s / 5,
        broker_max_poll_interval=600.0,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=settings.kafka.max_message_bytes + DEAD_LETTER_MARGIN_BYTES,
        stream_buffer_maxsize=1024,
        stream_wait_empty=False,
    )
    runtime = _Runtime(app, deliveries, settings.worker.drain_s)

    @app.on_partitions_revoked.connect  # type: ignore[untyped-decorator]
    async def hand_over(_: object, revoked: object, **__: object) -> None:
        await runtime.drain()

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def close(_: object, **__: object) -> None:
        await runtime.drain()
        await destination.close()

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
    """The agents of an application, and what they have finished."""

    def __init__(self, app: faust.App, deliveries: Sequence[Delivery], drain_s: float) -> None:
        self._app = app
        self._drain_s = drain_s
        self._readers: dict[str, list[str]] = {}
        for delivery in deliveries:
            self._readers.setdefault(delivery.stage.source.name, []).append(delivery.stage.name)
        self._offsets = Offsets(self._readers)
        self._flights = [self._add_agent(delivery) for delivery in deliveries]

    async def commit(self) -> None:
        """Tell the broker what has been finished."""
        await self._commit(self._offsets)

    async def drain(self) -> None:
        """Finish what is under way and commit it, so that nobody else has to do it again; what takes too long is given up.

        Whoever has the partitions then starts from the commit, with an account of his own; what has been taken and not begun by
        now is not begun any more.
        """
        account, self._offsets = self._offsets, Offsets(self._readers)
        given_up = sum(await asyncio.gather(*(flight.finish(self._drain_s) for flight in self._flights)))
        if given_up:
            log.warning("given_up", batches=given_up, consequence="they are done again, to the same end")
        await self._commit(account)

    async def _commit(self, account: Offsets) -> None:
        if moved := account.to_commit():
            if await self._app.consumer._commit({TP(*partition): offset for partition, offset in moved.items()}):
                account.committed(moved)

    def _add_agent(self, delivery: Delivery) -> InFlight:
        stage, in_flight = delivery.stage, InFlight(delivery.stage.batch.in_flight)
        # Without acknowledgement: what Faust commits of its own accord may lie behind what is finished (see `Offsets`).
        topic = self._app.topic(stage.source.name, key_serializer="raw", value_serializer="raw", internal=False, acks=False)

        async def run(stream: faust.Stream) -> None:
            async def work(batch: Sequence[RawRecord], offsets: Offsets, places: Sequence[Place]) -> None:
                if offsets is not self._offsets:
                    return  # the partitions have been handed out anew while the batch waited to begin
                await _handle(delivery, batch)
                offsets.finished(stage.name, places)

            async for events in stream.noack_take(stage.batch.limit_records, within=stage.batch.wait_s):
                if _owned(self._app, events):
                    batch = [_raw(event.message) for event in events]
                    places = [((record.topic, record.partition), record.offset) for record in batch]
                    self._offsets.taken(stage.name, places)
                    await in_flight.start(batch, partial(work, batch, self._offsets, places))

        self._app.agent(topic, name=stage.name)(run)
        return in_flight


def _owned(app: faust.App, events: Sequence[faust.Event]) -> bool:
    """Whether the group has not handed out partitions anew since the events were fetched, and is not about to.

    Faust clears its own queues at that, but not what has been taken from them to wait for the rest of a batch. Whoever has the
    partitions now, also if it is this worker, reads them anew from the last commit on.
    """
    generation = app.consumer_generation_id
    return app.flow_control.is_active() and all(event.message.generation_id == generation for event in events)


async def _handle(delivery: Delivery, batch: Sequence[RawRecord]) -> None:
    try:
        await delivery.handle(batch)
    except Exception:
        log.exception("undelivered", stage=delivery.stage.name, records=len(batch))
        os._exit(EXIT_UNDELIVERED)


def _raw(message: object) -> RawRecord:
    headers = message.headers or ()  # type: ignore[attr-defined]
    pairs = headers.items() if isinstance(headers, dict) else headers
    return RawRecord(
        message.topic,  # type: ignore[attr-defined]
        message.key,  # type: ignore[attr-defined]
        message.value,  # type: ignore[attr-defined]
        round(message.timestamp * 1000),  # type: ignore[attr-defined]
        tuple(pairs),
        message.partition,  # type: ignore[attr-defined]
        message.offset,  # type: ignore[attr-defined]
    )
