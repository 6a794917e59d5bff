"""The whole stream as real processes under load, next to a fault-free in-process reference with the same records."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
import redis
from prometheus_client.parser import text_string_to_metric_families

from demo import ANSWERS, ORDER_LINES
from evaluation.datasets.online_retail import read_retail
from features.repository import FeatureRepository
from infra import local, process
from infra.process import LOOPBACK
from infra.redis import start_redis
from infra.scratch import settings_on_free_ports, start_empty
from infra.vllm.server import TINY_MODEL, start_vllm
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.model_artifacts import publish_model
from reaseq.records import Event
from reaseq.representation.encoder import Encoder
from reaseq.representation.trained_ids import TrainedIds
from streams.delivery.topics import ITEM_FEATURES
from streams.operations import status
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.operations.rebuild import rebuild
from streams.runtime.kafka.lag import lags
from streams.runtime.kafka.producer import Producer
from tests.faults.load import Load, Record, build_raw, mix_records
from tests.faults.outcome import Outcome
from tests.faults.proxy import FaultyProxy
from tests.faults.reference import Reference, to_aggregates, to_rows
from tests.shards import port_of, use_shards

LEAST_LOAD_S = 5.0
FAULT_S = 10.0  # how long a fault lasts, if it does
SETTLE_TIMEOUT_S = 300.0
GRACE_S = 40.0
SESSION_TIMEOUT_S = 6.0  # the minimum that a broker allows
MODEL_TIMEOUT_S = 20.0
CHUNK_RECORDS, CHUNK_RECORDS_OF_A_MODEL = 25, 5  # a language model on the CPU is slow


@dataclass
class Worker:
    """A forked worker."""

    name: str
    pid: int
    port: int

    def kill(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def stop(self) -> None:
        """Let it finish for `GRACE_S`, then kill it, as the chart does."""
        self.kill(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.alive:
            self.kill(signal.SIGKILL)

    @property
    def alive(self) -> bool:
        try:
            return bool(psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


class FaultySystem:
    """Brokers, Redis behind a proxy, workers, and the reference. `state` is an empty directory.

    Knowledge comes from recorded answers, or from a language model behind a proxy; then the reference uses the same answers.
    With `redis_replicas`, Redis has a replica, and writes wait for it. With several `shards`, only the first has a proxy and
    faults.
    """

    def __init__(
        self,
        state: Path,
        seed: int,
        brokers: int = 1,
        language_model: bool = False,
        redis_replicas: int = 0,
        shards: int = 1,
    ) -> None:
        self.random = random.Random(seed)
        self.settings = settings = settings_on_free_ports(state / "system", brokers)
        settings.kafka.session_timeout_s = SESSION_TIMEOUT_S
        settings.kafka.archive_batch_wait_s = 1.0
        settings.store.redis_timeout_s = 1.0
        use_shards(settings, shards)
        self.redis_port = port_of(settings, 0)
        self.proxy = FaultyProxy(self.redis_port)
        start_empty(settings)
        urls = [f"redis://{LOOPBACK}:{self.proxy.port}/0", *settings.store.redis_urls[1:]]
        settings.store.redis_url = type(settings.store.redis_url)(",".join(urls))
        self.store = FeatureRepository(settings)
        self._replica_dir = state / "replica"
        if redis_replicas:
            self.start_replica()
            settings.store.redis_replicas = redis_replicas
        if language_model:
            self._use_language_model()
        else:
            settings.knowledge.recorded_file = ANSWERS
        self._chunk_records = CHUNK_RECORDS_OF_A_MODEL if language_model else CHUNK_RECORDS
        rebuild(settings, self.store)
        retail = read_retail(ORDER_LINES)
        self._publish_model([item.item_id for item in retail.items])
        events = [event for order in retail.orders for event in order.events]
        self._records = mix_records(retail.items, events, self.random, changing=not language_model)
        self._dead_letters = 0
        self._rounds = 0
        self._latest: dict[str, Event] = {}  # by user
        self._injected: list[Record] = []
        self._env = local.environment(settings)
        self._fork_server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server"],
            env={**os.environ, **self._env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.workers: list[Worker] = []
        self._workers_started = 0
        self._reference = Reference(state / "reference", settings)

    def close(self) -> None:
        """Stop all processes."""
        for worker in self.workers:
            if worker.alive:
                worker.kill(signal.SIGKILL)
        self._fork_server.kill()
        self._fork_server.communicate()  # close the pipes
        self.proxy.close()
        self._reference.close()
        process.stop(self._replica_dir, "redis")
        local.stop_all(self.settings)

    def start_worker(self, clock_ahead_s: float = 0.0, newer: bool = False) -> Worker:
        """Fork a worker, of a newer release if asked to; returns before it is ready."""
        self._workers_started += 1
        name, port = f"worker-{self._workers_started}", process.free_port()
        env = self._env | {"REASEQ_WORKER__METRICS_PORT": str(port)}
        log = str(self.settings.run_dir / f"{name}.log")
        assert self._fork_server.stdin and self._fork_server.stdout
        arguments = {"name": name, "log": log, "env": env, "clock_ahead_s": clock_ahead_s, "newer": newer}
        self._fork_server.stdin.write(json.dumps(arguments) + "\n")
        self._fork_server.stdin.flush()
        worker = Worker(name, int(self._fork_server.stdout.readline()), port)
        self.workers.append(worker)
        return worker

    def replace(self, worker: Worker) -> Worker:
        """Kill a worker and start another."""
        worker.kill(signal.SIGKILL)
        self.workers.remove(worker)
        return self.start_worker()

    def inject(self, records: Sequence[Record]) -> None:
        """Produce records beside the load."""
        self._producer.send_raw([build_raw(record) for record in records])
        self._injected += records

    def wait_ready(self) -> None:
        """Wait until every worker is ready."""
        for worker in self.workers:
            self.wait_for(worker)

    def wait_for(self, worker: Worker) -> None:
        """Wait until a worker is ready."""
        deadline = time.monotonic() + local.READY_TIMEOUT_S
        while process.http_get(f"http://127.0.0.1:{worker.port}/readyz") is None:
            log = self.settings.run_dir / f"{worker.name}.log"
            assert worker.alive and time.monotonic() < deadline, (worker, log.read_text()[-3000:])
            time.sleep(0.1)

    def restart_redis(self, data: str = "redis") -> None:
        """Start Redis again, on its port, and on its data or those of another name."""
        start_redis(self.settings.run_dir, self.settings.state_dir / data, self.redis_port)

    def redis_client(self) -> redis.Redis:
        """A connection to Redis that bypasses the proxy."""
        return redis.Redis(port=self.redis_port)

    def start_replica(self) -> None:
        """Start a replica of Redis; returns when it has all data."""
        self.replica_port = process.free_port()
        replica = start_redis(self._replica_dir, self._replica_dir / "redis", self.replica_port)
        with redis.Redis(port=self.replica_port) as client:
            client.replicaof(LOOPBACK, self.redis_port)
            process.wait_until(
                lambda: client.info("replication")["master_link_status"] == "up",
                local.READY_TIMEOUT_S,
                "the replica of Redis",
                replica,
            )

    def run_under_fault(self, fault: str, act: Callable[["FaultySystem"], int]) -> Outcome:
        """Run the load while `act` causes the fault, wait for recovery, and compare with the reference."""
        load = Load(self._records, self._chunk_records)
        self._producer = producer = Producer(self.settings.kafka)
        self._injected = []
        loading = threading.Thread(target=load.run, args=(producer,))
        started = time.monotonic()
        loading.start()
        runs = act(self)
        ended = time.monotonic()
        time.sleep(max(0.0, started + LEAST_LOAD_S - ended))
        load.ending.set()
        loading.join()
        load.produced += self._injected
        self.wait_ready()
        self._settle()
        outcome = Outcome(fault, runs, len(load.produced), 0, recovered_s=round(time.monotonic() - ended, 1))
        last_events = self._build_last_events(load.produced)
        self._wait_for_item_tables()
        producer.send_raw([build_raw(event) for event in last_events])
        producer.close()
        self._settle()
        outcome.dead_letters = self._reference.process(load.produced, last_events)
        self._dead_letters += outcome.dead_letters
        outcome.compare_rows(to_rows(self.store), self._reference.rows())
        outcome.compare_aggregates(to_aggregates(self.store), self._reference.aggregates())
        outcome.compare_topics(self.settings, self.store)
        found = sum(DeadLetterQueue(self.settings.kafka, 3).counts().values())
        outcome.compare_dead_letters(found, self._dead_letters)
        return outcome

    def _build_last_events(self, produced: Sequence[Record]) -> list[Event]:
        """One more event per user, so that the last inference uses the whole catalog, however records were ordered.

        Users of earlier rounds get one as well: if their items have come in this round, it was made again by itself.
        The event is a millisecond later than the others, so that it is kept: some baskets are longer than a history.
        """
        self._rounds += 1
        self._latest.update((record.user_id, record) for record in produced if isinstance(record, Event))
        return [
            msgspec.structs.replace(
                event, event_id=f"last-{self._rounds}-{user_id}", event_time_ms=event.event_time_ms + self._rounds
            )
            for user_id, event in self._latest.items()
        ]

    def _settle(self) -> None:
        deadline, idle = time.monotonic() + SETTLE_TIMEOUT_S, 0
        while idle < 2:
            behind = lags(self.settings.kafka, self.settings.kafka.group_id, status.SOURCES)
            idle = 0 if any(lag.uncommitted for lag in behind.values()) else idle + 1
            assert time.monotonic() < deadline, (behind, self.workers)
            time.sleep(0.3)

    def _wait_for_item_tables(self) -> None:
        records = lags(self.settings.kafka, self.settings.kafka.group_id, [ITEM_FEATURES])[ITEM_FEATURES.name].records
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        for worker in self.workers:
            while _tailed_records(worker) < records:
                assert time.monotonic() < deadline, worker
                time.sleep(0.1)

    def restart_language_model(self) -> None:
        """Start the language model's server again, on its port."""
        start_vllm(self.settings.state_dir, self.settings.run_dir, TINY_MODEL, self.model_port)

    def _use_language_model(self) -> None:
        self.model_port = process.free_port()
        self.restart_language_model()
        self.model_proxy = FaultyProxy(self.model_port)
        llm = self.settings.knowledge.llm
        llm.base_url, llm.model = f"http://127.0.0.1:{self.model_proxy.port}/v1", TINY_MODEL
        llm.reasoning_limit_chars, llm.answer_limit_tokens, llm.breaker_open_s = 60, 768, 1.0
        llm.concurrency_limit_calls, llm.answer_timeout_s = 16, MODEL_TIMEOUT_S

    def _publish_model(self, item_ids: Sequence[str]) -> None:
        """Publish a behavior model with random weights: its inferences are meaningless but deterministic."""
        ids, encoder, vocabulary = (
            TrainedIds(item_ids),
            Encoder(self.settings.encoder),
            load_vocabulary(self.settings.knowledge.vocabulary),
        )
        facts = {"space_id": encoder.space_id, "vocabulary": vocabulary.version}
        config = BehaviorConfig(vector_dim=encoder.dim, claims=vocabulary.size, items=len(ids))
        publish_model(self.settings.models_dir, BEHAVIOR, "random", BehaviorModel(config), config, ids, facts)


def _tailed_records(worker: Worker) -> float:
    scrape = process.http_get(f"http://127.0.0.1:{worker.port}/metrics") or ""
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            if sample.name == "reaseq_tailed_records":
                return sample.value
    return 0
