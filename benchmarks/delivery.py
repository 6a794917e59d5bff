"""The cost of the delivery contract, compared with a loop written by hand and with a bare loop without guarantees.

- `faust`: events from Kafka through the Faust runtime and `streams.delivery.delivery` into histories: decode them,
  fold them into the state in Redis, produce to `user-features` and wait for the acknowledgment, compare-and-set, commit.
- `in_process`: the same without a broker.
- `hand_written`: the job alone, as one would write it by hand for this one case: see `benchmarks.hand_written`.
- `quix` and `bytewax`: a user's job in these engines, see `benchmarks.peer_engines`.
- `bare_loop`: aiokafka and a Redis pipeline that SETs the final rows of each user in a batch once, then a commit. It decodes
  nothing, reads nothing from Redis and produces nothing.

Each side runs alone in its own process, on the same backlog. Its cost is the CPU time of that process from the first batch to
the last; the CPU time of the broker and Redis does not count.

Events come in two orders: `as_logged`, basket after basket, so that a batch has few users; and `interleaved`, as if from many
concurrent shoppers. Freshness is the time from an event's production to its history in Redis, with the archive stage in the
same process.
"""

import asyncio
import gc
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, TypeAlias

import faust
import msgspec
import redis.asyncio
from aiokafka import AIOKafkaConsumer
from kafka import KafkaProducer
from rich.console import Console

from benchmarks import hand_written, peer_engines
from benchmarks.delivery_side import DeliverySide, Report
from demo import ORDER_LINES
from evaluation.datasets.online_retail import read_retail
from features.archive import Archive
from features.packed_store import parse_entity_id
from features.repository import FeatureRepository
from infra import local
from infra.scratch import settings_on_free_ports, start_empty
from reaseq.records import Event
from reaseq.settings import Settings
from streams.assembly import Batching
from streams.delivery.delivery import Delivery
from streams.delivery.key_locks import KeyLocks
from streams.delivery.messages import Message, RawRecord, encode
from streams.delivery.stage import BatchPolicy, Stage
from streams.delivery.topics import EVENTS, USER_FEATURES
from streams.runtime.faust_runtime import COMMIT_INTERVAL_S, build_app
from streams.runtime.in_process import InProcessBroker, InProcessRuntime
from streams.runtime.kafka.producer import Producer
from streams.runtime.kafka.record_producer import KafkaRecordProducer
from streams.stages.archive import ArchiveStage
from streams.stages.history import HistoryStage

EVENTS_PER_TURN = 20_000
TURNS = 3
MIXED_OVER_EVENTS = 5_000
RATES_PER_S = (100, 1_000, 2_000, 3_000, 4_000, 6_000, 8_000)
RATE_FOR_S = 15.0
TICK_S = 0.02
CAUGHT_UP_WITHIN_S = 1.0  # a rate is sustained if the last event is processed within this time
TIMEOUT_S = 60.0

Reports: TypeAlias = "Queue[Report]"


class Meter:
    """Reports every batch of a process."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self.freshness_s: list[float] = []

    @contextmanager
    def batch(self, records: int) -> Iterator[None]:
        started_s, started_cpu_s = time.time(), time.process_time()
        yield
        fresh, self.freshness_s = self.freshness_s, []
        self._reports.put(Report(os.getpid(), records, started_s, time.time(), started_cpu_s, time.process_time(), fresh))


class MeteredDelivery(Delivery):
    """Reports every batch that it handles."""

    meter: Meter

    async def handle(self, batch: Sequence[RawRecord]) -> None:
        with self.meter.batch(len(batch)):
            await super().handle(batch)


class AnyItem:
    """A catalog that knows every item."""

    def knows(self, item_id: str) -> bool:
        return True


def run() -> dict[str, Any]:
    """Measure throughput and freshness, each workload on its own broker and Redis."""
    console = Console(stderr=True)
    logged = [event for order in read_retail(ORDER_LINES).orders for event in order.events][:EVENTS_PER_TURN]
    workloads = {"as_logged": logged, "interleaved": _interleaved(logged)}
    results: dict[str, Any] = {"events": len(logged), "turns": TURNS, "rate_for_s": RATE_FOR_S}
    for workload, events in workloads.items():
        with _system() as bench:
            results[workload] = _throughput(bench, events, console)
    with _system() as bench:
        results["freshness"] = _freshness(bench, workloads["interleaved"], console)
    sides = results["interleaved"]
    sustained = [measured for measured in results["freshness"] if measured["sustained"]]
    return {
        "events_per_s_per_core": sides["faust"]["events_per_s_per_core"],
        "hand_written_events_per_s_per_core": sides["hand_written"]["events_per_s_per_core"],
        **{f"{engine}_events_per_s_per_core": sides[engine]["events_per_s_per_core"] for engine in peer_engines.ENGINES},
        "bare_loop_events_per_s_per_core": sides["bare_loop"]["events_per_s_per_core"],
        "freshness_p99_ms": next(m["freshness_p99_ms"] for m in sustained if m["offered_events_per_s"] == 1_000),
        "highest_sustained_events_per_s": sustained[-1]["offered_events_per_s"],
        **results,
    }


@dataclass
class DeliveryBench:
    """A broker and Redis, and the reports of the processes under test."""

    settings: Settings
    store: FeatureRepository
    client: redis.Redis
    reports: Reports = field(init=False)

    def empty(self) -> None:
        """Empty Redis and mark the store as complete."""
        self.client.flushall()
        with self.store.rebuilding():
            pass

    def received_bytes(self) -> int:
        """Bytes that Redis has received since its start."""
        stats: Any = self.client.info("stats")
        return int(stats["total_net_input_bytes"])

    @contextmanager
    def processes(self, count: int, work: Callable[..., None], *arguments: Any) -> Iterator[None]:
        """Run `count` processes of one side; they are killed when the context exits."""
        context = multiprocessing.get_context("spawn")
        self.reports = context.Queue()  # a new queue, because a process killed during a write leaves its lock locked
        started = [context.Process(target=work, args=(self.settings, self.reports, *arguments)) for _ in range(count)]
        for process in started:
            process.start()
        try:
            yield
        finally:
            for process in started:
                process.kill()
                process.join()

    def wait_for(self, records: int) -> DeliverySide:
        """Collect reports until `records` are done. Raises queue.Empty after TIMEOUT_S without a report."""
        side = DeliverySide()
        while side.records < records:
            side.reports.append(self.reports.get(timeout=TIMEOUT_S))
        return side


@contextmanager
def _system() -> Iterator[DeliveryBench]:
    with tempfile.TemporaryDirectory(prefix="reaseq-bench-") as folder:
        settings = settings_on_free_ports(Path(folder))
        settings.store.redis_timeout_s = 10.0
        os.environ.update(local.environment(settings))  # spawned processes read their settings from it
        try:
            store = start_empty(settings)
            client = redis.Redis.from_url(settings.store.redis_url.get_secret_value())
            yield DeliveryBench(settings, store, client)
        finally:
            local.stop_all(settings)


def _interleaved(events: Sequence[Event]) -> list[Event]:
    """Shuffle the users within stretches of MIXED_OVER_EVENTS; each user's events stay in order."""
    generator, mixed = random.Random(1), []
    for start in range(0, len(events), MIXED_OVER_EVENTS):
        stretch = events[start : start + MIXED_OVER_EVENTS]
        order = [event.user_id for event in stretch]
        own = {user_id: iter([event for event in stretch if event.user_id == user_id]) for user_id in set(order)}
        generator.shuffle(order)
        mixed += [next(own[user_id]) for user_id in order]
    return mixed


# ---- throughput


def _throughput(bench: DeliveryBench, events: Sequence[Event], console: Console) -> dict[str, Any]:
    producer = Producer(bench.settings.kafka)
    producer.send(events)
    producer.close()
    sides: dict[str, list[DeliverySide]] = {}
    works: tuple[tuple[str, int, Callable[..., None] | None], ...] = (
        ("faust", 1, _faust),
        ("bare_loop", 1, _bare_loop),  # writes the rows left by the previous side
        ("hand_written", 1, _hand_written),
        ("in_process", 1, _in_process),
        ("faust_two_workers", 2, _faust),
        *((engine, 1, None) for engine in peer_engines.ENGINES),
    )
    for turn in range(TURNS):
        for name, count, work in works:
            rows = {key: bench.client.get(key) for key in bench.client.scan_iter(b"*:user_*", count=1000)}
            bench.empty()
            before = bench.received_bytes()
            if work is None:
                side = peer_engines.run(name, bench.settings, f"{name}-{turn}", len(events))
            else:
                argument = {_bare_loop: rows, _in_process: events}.get(work)
                with bench.processes(count, work, f"{name}-{turn}", argument):
                    side = bench.wait_for(len(events))
            side.redis_bytes = bench.received_bytes() - before
            sides.setdefault(name, []).append(side)
            console.print(f"{name}: {len(events) / side.cpu_s:,.0f} events/s per core, {len(events) / side.wall_s:,.0f}/s")
    return {name: _summary(turns) for name, turns in sides.items()}


def _summary(turns: Sequence[DeliverySide]) -> dict[str, float]:
    return {
        "events_per_s_per_core": round(statistics.median(side.records / side.cpu_s for side in turns)),
        "events_per_s": round(statistics.median(side.records / side.wall_s for side in turns)),
        "batch_mean_records": round(statistics.mean(report.records for side in turns for report in side.reports), 1),
        "redis_in_mib": round(statistics.mean(side.redis_bytes for side in turns) / 2**20, 1),
    }


def _faust(settings: Settings, reports: Reports, group: str, archive: bool | None = None) -> None:
    """A worker with the history stage and, with `archive`, the archive stage."""
    meter = Meter(reports)

    def observe(stage: str, message: Message, freshness_s: float) -> None:
        meter.freshness_s.append(freshness_s)

    store = FeatureRepository(settings, require_complete=True)
    batching = Batching.from_settings(settings)
    producer, locks = KafkaRecordProducer(settings.kafka), KeyLocks()
    stage = HistoryStage(store, AnyItem(), settings.behavior, batching.history)
    behavior = MeteredDelivery(stage, producer, store, 300.0, observe if archive else None, locks=locks)
    behavior.meter = meter
    deliveries: list[Delivery] = [behavior]
    if archive:
        files = Archive(settings.archive_dir, store.vocabulary)
        files.create()
        archiving = ArchiveStage(USER_FEATURES, files, store, batching.archive, lambda users: None)
        deliveries.append(Delivery(archiving, producer, store, 300.0, locks=locks))
    app = build_app(settings, group, deliveries, producer, data_dir=settings.run_dir / f"faust-{os.getpid()}")
    gc.freeze()  # as a worker does
    faust.Worker(app, loglevel="ERROR", redirect_stdouts=False, quiet=True).execute_from_commandline()


def _in_process(settings: Settings, reports: Reports, group: str, events: Sequence[Event]) -> None:
    """The history stage on the in-process runtime."""
    store, broker, meter = FeatureRepository(settings, require_complete=True), InProcessBroker(), Meter(reports)
    stage = HistoryStage(store, AnyItem(), settings.behavior, BatchPolicy(settings.kafka.history_batch_limit_records, 0.0))

    def deliver(stage: Stage) -> Delivery:
        delivery = MeteredDelivery(stage, broker, store, 300.0)
        delivery.meter = meter
        return delivery

    runtime = InProcessRuntime(broker, deliver, [stage])
    gc.freeze()  # as a worker does
    now_ms = int(time.time() * 1000)
    asyncio.run(broker.produce([encode(event, now_ms) for event in events]))
    asyncio.run(runtime.run_until_idle(flush=True))


def _hand_written(settings: Settings, reports: Reports, group: str, _: None) -> None:
    """The loop of `benchmarks.hand_written`."""
    gc.freeze()
    asyncio.run(hand_written.run(settings, group, Meter(reports).batch))


def _bare_loop(settings: Settings, reports: Reports, group: str, rows: dict[bytes, bytes]) -> None:
    """Poll, SET the rows of the users in the batch, commit."""
    by_user: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for key, row in rows.items():
        by_user.setdefault(parse_entity_id(key.split(b":", 2)[2]).encode(), []).append((key, row))
    gc.freeze()
    asyncio.run(_poll(settings, Meter(reports), group, by_user))


async def _poll(settings: Settings, meter: Meter, group: str, rows: dict[bytes, list[tuple[bytes, bytes]]]) -> None:
    client = redis.asyncio.Redis.from_url(settings.store.redis_url.get_secret_value())
    consumer = AIOKafkaConsumer(
        EVENTS.name,
        bootstrap_servers=settings.kafka.bootstrap_servers,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    committed_s = time.monotonic()
    while True:
        fetched = await consumer.getmany(timeout_ms=50, max_records=settings.kafka.history_batch_limit_records)
        records = [record for partition in fetched.values() for record in partition]
        if records:
            with meter.batch(len(records)):
                async with client.pipeline(transaction=False) as pipe:
                    for user in dict.fromkeys(record.key for record in records):
                        for key, row in rows[user]:
                            pipe.set(key, row)
                    await pipe.execute()
        if time.monotonic() - committed_s >= COMMIT_INTERVAL_S:
            await consumer.commit()
            committed_s = time.monotonic()


# ---- freshness


def _freshness(bench: DeliveryBench, events: Sequence[Event], console: Console) -> list[dict[str, Any]]:
    """Measure freshness at increasing rates, until one is not sustained."""
    results: list[dict[str, Any]] = []
    endless = cycle(events)
    with bench.processes(1, _faust, "freshness", True):
        bench.empty()
        _send(bench.settings, endless, 50, 2.0)  # warm-up
        bench.wait_for(100)
        for rate in RATES_PER_S:
            sent, took_s = _send(bench.settings, endless, rate, RATE_FOR_S)
            ended_s = time.time()
            side = bench.wait_for(sent)
            behind_s = side.ended_s - ended_s
            results.append(
                {
                    "offered_events_per_s": rate,
                    "events_per_s": round(sent / took_s),
                    "freshness_p50_ms": side.freshness_ms(50),
                    "freshness_p99_ms": side.freshness_ms(99),
                    "caught_up_after_s": round(max(0.0, behind_s), 2),
                    "sustained": sent >= 0.95 * rate * took_s and behind_s <= CAUGHT_UP_WITHIN_S,
                }
            )
            console.print(results[-1])
            if not results[-1]["sustained"]:
                break
    return results


def _send(settings: Settings, events: Iterator[Event], rate_per_s: float, for_s: float) -> tuple[int, float]:
    """Produce at a rate, each event with a new id; returns the number of events and the seconds it took."""
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap_servers, acks="all", compression_type="lz4", linger_ms=5
    )
    sent, started = 0, time.monotonic()
    while (elapsed_s := time.monotonic() - started) < for_s:
        for event in islice(events, int(elapsed_s * rate_per_s) + 1 - sent):
            now_ms = int(time.time() * 1000)
            record = encode(msgspec.structs.replace(event, event_id=f"{now_ms}-{sent}", event_time_ms=now_ms), now_ms)
            producer.send(record.topic, key=record.key, value=record.value, headers=list(record.headers), timestamp_ms=now_ms)
            sent += 1
        time.sleep(TICK_S)
    took_s = time.monotonic() - started
    producer.flush()
    producer.close()
    return sent, took_s
