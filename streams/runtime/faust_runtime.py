"""The Faust runtime: runs the stages on Kafka, without Faust's streams and acknowledgment.

Faust acknowledges a message when an agent raises, drops unfinished batches when it stops, and loses count of offsets in a
rebalance. Here, a batch is finished only after `Delivery.handle` has returned, and only finished batches are committed. If
`handle` raises, nothing more may be committed: the process exits at once, and the group reassigns its partitions.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import faust
import structlog
from faust.types import TP
from faust.types.auth import CredentialsT

from reaseq.settings import KafkaSettings, Settings, WorkerSettings
from streams.delivery.delivery import Delivery
from streams.delivery.messages import RawRecord
from streams.delivery.stage import Repeats
from streams.runtime.faust_consumer import install_consumer
from streams.runtime.kafka.connection import tls_context
from streams.runtime.kafka.record_producer import KafkaRecordProducer
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.offset_tracker import OffsetTracker, StartOffsets

log = structlog.get_logger()

EXIT_UNDELIVERED = 70  # EX_SOFTWARE: the worker could neither deliver a record nor produce its dead letter
COMMIT_INTERVAL_S = 1.0
REPEAT_INTERVAL_S = 0.5
HEARTBEATS_PER_SESSION = 5
FETCH_LIMIT_RECORDS = 2000
NEVER_S = 1e6


def build_app(
    settings: Settings,
    group_id: str,
    deliveries: Sequence[Delivery],
    producer: KafkaRecordProducer,
    data_dir: Path,
    shards: int = 1,
) -> faust.App:
    """A Faust application that runs each stage in tasks of its own, one for each shard of the store.

    It closes `producer` when it stops.
    """
    data_dir.mkdir(parents=True, exist_ok=True)  # Faust creates only the last folder of the path
    logging.getLogger("aiokafka").setLevel(logging.INFO)  # at DEBUG, aiokafka formats a line per record
    kafka = settings.kafka
    app = faust.App(
        group_id,
        broker=";".join(f"kafka://{server}" for server in kafka.bootstrap_servers.split(",")),
        broker_credentials=_credentials(kafka),
        datadir=str(data_dir),
        topic_disable_leader=True,
        web_enabled=False,
        broker_session_timeout=kafka.session_timeout_s,
        broker_heartbeat_interval=kafka.session_timeout_s / HEARTBEATS_PER_SESSION,
        broker_max_poll_interval=NEVER_S,  # waiting stages must not trigger a rebalance; the watchdog reports stalls
        broker_max_poll_records=FETCH_LIMIT_RECORDS,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=kafka.record_limit_bytes,
    )
    runtime = _Runtime(app, deliveries, settings.worker, shards)

    @app.on_partitions_revoked.connect  # type: ignore[untyped-decorator]
    async def drain(_: object, revoked: object, **__: object) -> None:
        await runtime.drain()

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def close(_: object, **__: object) -> None:
        await runtime.end()
        await producer.close()

    @app.timer(COMMIT_INTERVAL_S)  # type: ignore[untyped-decorator]
    async def commit() -> None:
        await runtime.commit()

    return app


def assigned_partitions(app: faust.App) -> set[tuple[str, int]]:
    """The (topic, partition) pairs that are assigned to the application now."""
    if not app._consumer:  # not started yet
        return set()
    return {(tp.topic, tp.partition) for tp in app.consumer.assignment()}


def _credentials(settings: KafkaSettings) -> CredentialsT | None:
    """The credentials of `client_options` for Faust; None for plaintext without authentication."""
    context = tls_context(settings) if settings.tls else None
    if settings.sasl_mechanism:
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=settings.sasl_password.get_secret_value(),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


class _Runtime:
    """The stages of an application: their buffered, running and finished batches."""

    def __init__(self, app: faust.App, deliveries: Sequence[Delivery], settings: WorkerSettings, shards: int) -> None:
        self._app = app
        self._drain_s = settings.drain_s
        self._ended = False
        self._lanes: dict[str, list[Lanes]] = {}  # of each stage, by topic
        self._readers: dict[str, list[str]] = {}
        for delivery in deliveries:
            stage = delivery.stage
            self._add(delivery, Lanes(stage.name, stage.batch, shards, settings.held_limit_records))
        self._offsets = OffsetTracker(self._readers)
        install_consumer(app, self, self._readers)

    def has_room(self, topic: str) -> bool:
        """Whether every stage that reads the topic has room for more records."""
        return all(lanes.has_room for lanes in self._lanes[topic])

    def put(self, fetched: Mapping[TP, list[RawRecord]], positions: Mapping[TP, int]) -> None:
        """Buffer fetched records for every stage that reads their topic, and note up to which offsets the consumer has read."""
        if self._ended:
            return
        for tp, records in fetched.items():
            for lanes in self._lanes[tp.topic]:
                for lane, own in lanes.split(records).items():
                    lane.buffer.put(own)
                    self._offsets.put(lane.name, own)
        self._offsets.fetch({tp: records[-1].offset + 1 for tp, records in fetched.items()}, positions)

    async def commit(self) -> None:
        """Commit the finished batches."""
        await self._commit(self._offsets)

    async def drain(self) -> None:
        """Finish running batches within `drain_s` and commit them, so that no other worker repeats them; cancel the rest.

        The next assignment starts from the committed offsets with a new tracker. Buffered batches are dropped.
        """
        finishing, self._offsets = self._offsets, OffsetTracker(self._readers)
        lanes = [lane for of_topic in self._lanes.values() for of_stage in of_topic for lane in of_stage]
        for lane in lanes:
            lane.buffer.clear()
        cancelled = sum(await asyncio.gather(*(lane.in_flight.finish(self._drain_s) for lane in lanes)))
        if cancelled:
            log.warning("batches_cancelled", batches=cancelled, consequence="they are redelivered, with the same result")
        await self._commit(finishing)

    async def end(self) -> None:
        """Drain, and accept no more records."""
        self._ended = True
        await self.drain()

    async def _commit(self, tracker: OffsetTracker) -> None:
        if offsets := tracker.to_commit():
            if await self._app.consumer._commit({TP(*partition): offset for partition, offset in offsets.items()}):
                tracker.mark_committed(offsets)

    def _add(self, delivery: Delivery, lanes: Lanes) -> None:
        topic = delivery.stage.source.name
        self._lanes.setdefault(topic, []).append(lanes)
        for lane in lanes:
            self._readers.setdefault(topic, []).append(lane.name)
            self._add_lane(delivery, lane)

        async def repeat() -> None:
            while True:
                await asyncio.sleep(REPEAT_INTERVAL_S)
                if due := await delivery.due_again():
                    for lane, batch in lanes.split(due).items():
                        await lane.in_flight.start(batch, partial(_handle, delivery, batch))

        if isinstance(delivery.stage, Repeats):
            self._app.task(repeat)

    def _add_lane(self, delivery: Delivery, lane: Lane) -> None:
        async def work(batch: Sequence[RawRecord], tracker: OffsetTracker, starts: StartOffsets) -> None:
            if tracker is self._offsets:  # otherwise the group was rebalanced while the batch waited to start
                await _handle(delivery, batch)
                tracker.finish(lane.name, starts)

        async def run() -> None:
            while True:
                batch = await lane.buffer.take()
                starts = self._offsets.start(lane.name, batch)
                await lane.in_flight.start(batch, partial(work, batch, self._offsets, starts))

        self._app.task(run)


async def _handle(delivery: Delivery, batch: Sequence[RawRecord]) -> None:
    try:
        await delivery.handle(batch)
    except Exception:
        log.exception("undelivered", stage=delivery.stage.name, records=len(batch))
        os._exit(EXIT_UNDELIVERED)


def build_worker(app: faust.App) -> faust.Worker:
    """The process of an application, which writes nothing but logs."""
    worker = faust.Worker(app, override_logging=False, redirect_stdouts=False, quiet=True)
    worker.spinner = None  # at the end of the start it writes cursor codes, also to a file
    return worker
