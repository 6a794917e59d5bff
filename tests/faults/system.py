"""The whole stream on real processes, under load, beside a fault-free reference that sees the same records in process."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec
import torch
from prometheus_client.parser import text_string_to_metric_families

from demo import ANSWERS, ORDER_LINES
from features.definitions import VIEWS
from features.packed_store import entity_id_of
from features.repository import FeatureRepository
from features.row import order_of, unpack
from infra import local, process
from infra.redis import start_redis
from reaseq.artefacts import current
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.evaluation.online_retail import read_retail
from reaseq.knowledge.vocabulary import vocabulary_in_force
from reaseq.published import publish_model
from reaseq.records import Event, FeatureRecord, Item
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import Settings
from streams import status
from streams.assembly import assemble
from streams.delivery import Delivery
from streams.in_process import InProcessLog, InProcessRuntime
from streams.kafka import Producer, create_topics, lags, read_all
from streams.letter_box import LetterBox
from streams.messages import RawRecord, encode
from streams.rebuild import rebuild
from streams.stage import BatchPolicy
from streams.topics import EVENTS, ITEM_FEATURES, USER_FEATURES
from tests.faults.proxy import SlowProxy

Rows = dict[str, dict[bytes, bytes]]
Record = Item | Event | RawRecord  # the last: what no producer should send

CHUNK_RECORDS, CHUNK_INTERVAL_S = 25, 0.2
POISON_EVERY = 200  # records
LEAST_LOAD_S = 5.0
SETTLE_TIMEOUT_S = 300.0
SESSION_TIMEOUT_S = 6.0  # the least that a broker allows


@dataclass
class Outcome:
    """What a fault did. All of lost, doubled and stale are to be 0."""

    fault: str
    runs: int
    records: int
    dead_letters: int
    lost: int = 0  # rows that are missing, or letters
    doubled: int = 0  # rows that count more than there was, or letters
    stale_over_fresh: int = 0  # rows older than the reference, or records that stand last in a topic though the store has newer
    different: int = 0  # rows of the right version with another content
    recovered_s: float = 0.0
    differences: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether the store and the letters are what they would have been without the fault."""
        return not (self.lost or self.doubled or self.stale_over_fresh or self.different)


@dataclass
class Worker:
    """A worker that was forked."""

    name: str
    pid: int
    port: int

    def kill(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    @property
    def alive(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except FileNotFoundError:
            return False


@dataclass
class Load:
    """Records that are produced as long as somebody wants."""

    records: Iterator[Record]
    produced: list[Record] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def run(self, producer: Producer) -> None:
        while not self.ending.is_set() and (chunk := list(islice(self.records, CHUNK_RECORDS))):
            producer.send_raw([_raw(record) for record in chunk])
            self.produced += chunk
            time.sleep(CHUNK_INTERVAL_S)


class FaultySystem:
    """Broker, Redis behind a proxy, workers, and the reference. `state` is an empty folder."""

    def __init__(self, state: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.settings = settings = Settings(state_dir=state / "system")
        settings.store.profile = "production"
        settings.knowledge.recorded_file = ANSWERS
        settings.kafka.bootstrap_servers = f"127.0.0.1:{process.free_port()}"
        settings.kafka.session_timeout_s = SESSION_TIMEOUT_S
        settings.kafka.archive_batch_wait_s = 1.0
        settings.store.redis_timeout_s = 1.0
        self.redis_port = process.free_port()
        self.proxy = SlowProxy(self.redis_port)
        settings.store.redis_url = type(settings.store.redis_url)(f"redis://127.0.0.1:{self.redis_port}/0")
        local.start_services(settings)
        create_topics(settings.kafka)
        self.store = FeatureRepository(settings)
        self.store.apply()
        rebuild(settings, self.store)
        retail = read_retail(ORDER_LINES)
        self._publish_model([item.item_id for item in retail.items])
        events = [event for order in retail.orders for event in order.events]
        self._records = _mixed(retail.items, events, self.random)
        self._items: set[str] = set()
        self._letters = 0
        self._closings = 0
        env = local.environment(settings) | {
            "REASEQ_STORE__REDIS_URL": f"redis://127.0.0.1:{self.proxy.port}/0",
        }
        self._env = env
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.workers: list[Worker] = []
        self._named = 0
        self._reference = Reference(state / "reference", settings)

    def close(self) -> None:
        """Stop everything."""
        for worker in self.workers:
            if worker.alive:
                worker.kill(signal.SIGKILL)
        self._nursery.kill()
        self._nursery.wait()
        self.proxy.close()
        local.stop_all(self.settings)

    def start_worker(self, clock_ahead_s: float = 0.0) -> Worker:
        """Fork a worker; does not wait until it is ready."""
        self._named += 1
        name, port = f"worker-{self._named}", process.free_port()
        env = self._env | {"REASEQ_WORKER__METRICS_PORT": str(port)}
        log = str(self.settings.run_dir / f"{name}.log")
        assert self._nursery.stdin and self._nursery.stdout
        wanted = {"name": name, "log": log, "env": env, "clock_ahead_s": clock_ahead_s}
        self._nursery.stdin.write(json.dumps(wanted) + "\n")
        self._nursery.stdin.flush()
        worker = Worker(name, int(self._nursery.stdout.readline()), port)
        self.workers.append(worker)
        return worker

    def replace(self, worker: Worker, number: signal.Signals = signal.SIGKILL) -> Worker:
        """End a worker and start another."""
        worker.kill(number)
        self.workers.remove(worker)
        return self.start_worker()

    def wait_ready(self) -> None:
        """Wait until every worker is ready."""
        deadline = time.monotonic() + local.READY_TIMEOUT_S
        for worker in self.workers:
            while process.http_get(f"http://127.0.0.1:{worker.port}/readyz") is None:
                assert worker.alive and time.monotonic() < deadline, (
                    worker,
                    (self.settings.run_dir / f"{worker.name}.log").read_text()[-3000:],
                )
                time.sleep(0.1)

    def restart_redis(self) -> None:
        """Start Redis where it was."""
        start_redis(self.settings.run_dir, self.settings.state_dir / "redis", self.redis_port)

    def under(self, fault: str, act: Callable[["FaultySystem"], int]) -> Outcome:
        """Let a fault act under load, which returns how often it struck; then compare with the reference."""
        load = Load(self._records)
        producer = Producer(self.settings.kafka)
        loading = threading.Thread(target=load.run, args=(producer,))
        started = time.monotonic()
        loading.start()
        runs = act(self)
        ended = time.monotonic()
        time.sleep(max(0.0, started + LEAST_LOAD_S - ended))
        load.ending.set()
        loading.join()
        self.wait_ready()
        self._settle()
        outcome = Outcome(fault, runs, len(load.produced), 0, recovered_s=round(time.monotonic() - ended, 1))
        self._items |= {record.item_id for record in load.produced if isinstance(record, Item)}
        closing = self._closing(load.produced)
        self._wait_for_item_tables()
        producer.send_raw([_raw(event) for event in closing])
        producer.close()
        self._settle()
        letters = self._reference.take(load.produced, closing)
        self._compare(outcome, letters)
        return outcome

    def _closing(self, produced: Sequence[Record]) -> list[Event]:
        """One more event for each user: what is inferred last is inferred from the whole catalogue, in any order of things."""
        self._closings += 1
        latest: dict[str, Event] = {}
        for record in produced:
            if isinstance(record, Event):
                latest[record.user_id] = record
        return [
            msgspec.structs.replace(event, event_id=f"closing-{self._closings}-{user_id}") for user_id, event in latest.items()
        ]

    def _settle(self) -> None:
        deadline, calm = time.monotonic() + SETTLE_TIMEOUT_S, 0
        while calm < 2:
            behind = lags(self.settings.kafka, self.settings.kafka.group_id, status.SOURCES)
            calm = 0 if any(lag.unacknowledged for lag in behind.values()) else calm + 1
            assert time.monotonic() < deadline, (behind, self.workers)
            time.sleep(0.3)

    def _wait_for_item_tables(self) -> None:
        held = lags(self.settings.kafka, self.settings.kafka.group_id, [ITEM_FEATURES])[ITEM_FEATURES.name].held
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        for worker in self.workers:
            while _followed(worker) < held:
                assert time.monotonic() < deadline, worker
                time.sleep(0.1)

    def _compare(self, outcome: Outcome, expected_letters: int) -> None:
        found, wanted = rows_of(self.store), self._reference.rows()
        for view, right in wanted.items():
            there = found[view]
            outcome.doubled += len(there.keys() - right.keys())
            for key, row in right.items():
                held = there.get(key)
                if held is None:
                    outcome.lost += 1
                    outcome.differences.append(f"{view}: {entity_id_of(key)} is missing")
                elif held != row:
                    ours, theirs = order_of(held)[:2], order_of(row)[:2]
                    told = f"is at {ours}, not at {theirs}" if ours != theirs else _differing(view, held, row)
                    outcome.differences.append(f"{view}: {entity_id_of(key)} {told}")
                    outcome.stale_over_fresh += ours < theirs
                    outcome.doubled += ours > theirs
                    outcome.different += ours == theirs
        stale = self._stale_in_topics()
        outcome.stale_over_fresh += len(stale)
        outcome.differences += stale
        self._letters += expected_letters
        outcome.dead_letters = expected_letters
        missing = self._letters - sum(LetterBox(self.settings.kafka, 3).counts().values())
        outcome.lost += max(0, missing)
        outcome.doubled += max(0, -missing)

    def _stale_in_topics(self) -> list[str]:
        """Entities whose last record in their compacted topic is not the newest."""
        stale = []
        for topic in (ITEM_FEATURES, USER_FEATURES):
            last = {raw.key: raw.value for raw in read_all(self.settings.kafka, topic)}
            records: list[FeatureRecord] = [msgspec.json.decode(value, type=topic.message) for value in last.values() if value]
            kept = self.store.not_overtaken(records)
            stale += [
                f"{topic.name}: {topic.key(record)} ends at {_version(record)}" for record in records if record not in kept
            ]
        return stale

    def _publish_model(self, item_ids: Sequence[str]) -> None:
        """A behaviour model with random weights: it infers nonsense, always the same."""
        ids, facts = TrainedIds(item_ids), {"space_id": "", "vocabulary": vocabulary_in_force().version}
        system = assemble(Settings(state_dir=self.settings.state_dir / "space"), BatchPolicy(1, 0), BatchPolicy(1, 0))
        facts["space_id"] = system.encoder.space_id
        config = BehaviorConfig(vector_dim=system.encoder.dim, claims=vocabulary_in_force().size, items=len(ids))
        publish_model(self.settings.models_dir, BEHAVIOR, "random", BehaviorModel(config), config, ids, facts)


class Reference:
    """The same stages in process, where nothing fails."""

    def __init__(self, state: Path, settings: Settings) -> None:
        torch.set_num_threads(settings.worker.threads)  # sums over threads round differently
        own = settings.model_copy(deep=True, update={"state_dir": state})
        own.store.profile = "embedded"
        self._system = assemble(own, BatchPolicy(256, 0.0), BatchPolicy(5000, 3600.0))
        self._log = InProcessLog()
        self._log.subscribe(ITEM_FEATURES.name, self._system.follow_items)
        self._runtime = InProcessRuntime(
            self._log, lambda stage: Delivery(stage, self._log, self._system.store, 300.0), self._system.stages
        )
        self._models_dir = settings.models_dir

    def take(self, produced: Sequence[Record], closing: Sequence[Event]) -> int:
        """Process the records, items first; returns how many went to the dead letters."""
        self._system.use_behavior(current(self._models_dir, BEHAVIOR))
        before = len(self._log.dead_letters)
        items = [record for record in produced if isinstance(record, Item)]
        others = [record for record in produced if not isinstance(record, Item)]

        async def replay() -> None:
            for records in (items, others, closing):
                await self._log.produce([_raw(record) for record in records])
                await self._runtime.run_until_idle(flush=True)

        asyncio.run(replay())
        return len(self._log.dead_letters) - before

    def rows(self) -> Rows:
        """What is in its store."""
        return rows_of(self._system.store)


def rows_of(store: FeatureRepository) -> Rows:
    """Every packed row of every view."""
    return {view.name: dict(store.online.scan(store.config, view)) for view in VIEWS}


def _version(record: FeatureRecord) -> tuple[int, int]:
    return record.event_time_ms, record.revision


def _mixed(items: Sequence[Item], events: Sequence[Event], generator: random.Random) -> Iterator[Record]:
    """An endless shop: items are listed and change their price or title, people buy, and some producer sends garbage."""
    listed: list[Item] = []
    number = 0
    new = iter(items)
    for event in events:
        number += 1
        if number % 8 == 0 and (item := next(new, None)):
            listed.append(item)
            yield item
        if number % 31 == 0:
            place = generator.randrange(len(listed))
            title = listed[place].title + (" new" if generator.random() < 0.5 else "")  # which asks for new reasoning
            price = (listed[place].price or 0) + 1
            later = listed[place].event_time_ms + 1
            listed[place] = msgspec.structs.replace(listed[place], title=title[:900], price=price, event_time_ms=later)
            yield listed[place]
        if number % POISON_EVERY == 0:
            yield RawRecord(EVENTS.name, event.user_id.encode(), b'{"schema": "event.1", "broken', int(time.time() * 1000))
        yield event


def _raw(record: Record) -> RawRecord:
    return record if isinstance(record, RawRecord) else encode(record, int(time.time() * 1000))


def _followed(worker: Worker) -> float:
    scrape = process.http_get(f"http://127.0.0.1:{worker.port}/metrics") or ""
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            if sample.name == "reaseq_followed_records":
                return sample.value
    return 0


def _differing(view: str, held: bytes, right: bytes) -> str:
    """The features in which two rows differ."""
    names = next([feature.name for feature in of.features] for of in VIEWS if of.name == view)
    ours, theirs = unpack(held, names), unpack(right, names)
    return ", ".join(f"{name} {ours.get(name)} / {theirs.get(name)}" for name in names if ours.get(name) != theirs.get(name))
