"""The faults. Each function acts on a running system under load and returns how often it did so."""

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import msgspec
import redis
from kafka import KafkaProducer

from features.repository import FeatureRepository
from infra import process
from infra.kafka.broker import install, start_again, start_broker
from reaseq.records import Event
from streams.delivery.topics import EVENTS
from streams.operations.rebuild import rebuild
from tests.faults.system import MODEL_TIMEOUT_S, SESSION_TIMEOUT_S, FaultySystem

KILL_INTERVAL_S = (0.5, 6.0)
REDIS_AWAY_S = 4.0
BROKER_AWAY_S = 15.0
LATENCY_S = 0.2
SLOW_FOR_S = 10.0
CLOCK_AHEAD_S = 120.0
TRANSACTION_S = 1.0
ARCHIVE_MIB = 1
KEPT_SHARE = 0.9


def none(system: FaultySystem) -> int:
    """No fault."""
    return 0


def kills(system: FaultySystem, times: int) -> int:
    """Kill workers at random times, whatever they are doing, and start replacements."""
    for _ in range(times):
        time.sleep(system.random.uniform(*KILL_INTERVAL_S))
        system.replace(system.random.choice(system.workers))
    return times


def broker_restart(system: FaultySystem) -> int:
    """Kill the only broker and start it again."""
    settings = system.settings
    time.sleep(1.0)
    broker = process.find(settings.run_dir, "kafka")
    assert broker
    process.stop(settings.run_dir, "kafka", wait_s=0.0)
    state = settings.state_dir.resolve()
    limit_bytes = settings.kafka.record_limit_bytes
    start_broker(settings.run_dir, state / "kafka" / "data", install(state), broker.ports[0], max_message_bytes=limit_bytes)
    for worker in list(system.workers):  # a worker that could neither deliver nor dead-letter has exited, as it should
        if not worker.alive:
            system.workers.remove(worker)
            system.start_worker()
    return 1


def broker_lost(system: FaultySystem) -> int:
    """Kill each of three brokers in turn, and start it again after a while."""
    settings = system.settings
    for number in (1, 2, 3):
        broker = process.find(settings.run_dir, f"kafka-{number}")
        assert broker
        process.stop(settings.run_dir, broker.name, wait_s=0.0)
        time.sleep(BROKER_AWAY_S)
        assert all(worker.alive for worker in system.workers)  # two of three replicas are enough: no worker waits
        start_again(settings.run_dir, install(settings.state_dir.resolve()), broker)
        time.sleep(BROKER_AWAY_S)
    return 3


def redis_restart(system: FaultySystem) -> int:
    """Kill Redis and start it again on its append-only file."""
    time.sleep(1.0)
    process.stop(system.settings.run_dir, "redis", wait_s=0.0)
    time.sleep(REDIS_AWAY_S)
    system.restart_redis()
    return 1


def redis_emptied(system: FaultySystem) -> int:
    """Empty Redis (FLUSHALL), then rebuild it."""
    time.sleep(1.0)
    redis_client(system).flushall()
    time.sleep(REDIS_AWAY_S)
    rebuild(system.settings, FeatureRepository(system.settings))
    return 1


def redis_slow(system: FaultySystem) -> int:
    """Delay every Redis response by 200 ms."""
    system.proxy.latency_s = LATENCY_S
    time.sleep(SLOW_FOR_S)
    system.proxy.latency_s = 0.0
    return 1


def redis_full(system: FaultySystem) -> int:
    """Let Redis run out of memory, so that it rejects writes, then give it more."""
    time.sleep(1.0)
    redis_client(system).config_set("maxmemory", 1)
    time.sleep(REDIS_AWAY_S)
    redis_client(system).config_set("maxmemory", 0)
    return 1


def redis_evicting(system: FaultySystem) -> int:
    """Let Redis evict keys for a while, until an operator notices and rebuilds it."""
    time.sleep(1.0)
    client = redis_client(system)
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * KEPT_SHARE))  # type: ignore[index]
    while not client.info("stats")["evicted_keys"]:  # type: ignore[index]
        time.sleep(0.1)
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")
    time.sleep(REDIS_AWAY_S)
    rebuild(system.settings, FeatureRepository(system.settings))
    return 1


def archive_full(system: FaultySystem) -> int:
    """Fill the archive's disk, then free it."""
    folder = system.settings.archive_dir
    workers = list(system.workers)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ARCHIVE_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        for view in ("user_history", "user_inferred", "item_representation", "item_knowledge"):
            (folder / view).mkdir()
        (folder / "filler").write_bytes(bytes(ARCHIVE_MIB << 20))
    except OSError:
        pass
    time.sleep(SLOW_FOR_S)
    assert all(worker.alive for worker in workers)
    subprocess.run(["umount", "-l", str(folder)], check=True)
    return 1


def rebalance_storm(system: FaultySystem, times: int) -> int:
    """Start workers and end them, by SIGKILL and SIGTERM in turn, faster than the group rebalances."""
    for number in range(times):
        extra = system.start_worker()
        time.sleep(system.random.uniform(2.0, 5.0))
        extra.kill(signal.SIGTERM if number % 2 else signal.SIGKILL)
        system.workers.remove(extra)
    return times


def zombie(system: FaultySystem, times: int) -> int:
    """Pause a worker until the group has evicted it, then let it continue with its batches in flight."""
    for _ in range(times):
        worker = system.random.choice(system.workers)
        worker.kill(signal.SIGSTOP)
        time.sleep(SESSION_TIMEOUT_S + 4.0)
        worker.kill(signal.SIGCONT)
        time.sleep(4.0)
    return times


def clock_skew(system: FaultySystem) -> int:
    """Run one worker with its clock two minutes ahead, and another two minutes behind."""
    for ahead_s in (CLOCK_AHEAD_S, -CLOCK_AHEAD_S):
        worker = system.workers.pop(0)
        worker.kill(signal.SIGTERM)
        system.start_worker(clock_ahead_s=ahead_s)
    system.wait_ready()
    time.sleep(SLOW_FOR_S)
    return 2


def aborted_transactions(system: FaultySystem, times: int) -> int:
    """Let a foreign producer open transactions in all partitions of `events` and abort them; no user may appear."""
    kafka = system.settings.kafka
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id="faults")) as producer:
        producer.init_transactions()
        for number in range(times):
            producer.begin_transaction()
            event = Event(event_id=f"{number}", user_id="aborted", item_id="i", type="view", event_time_ms=1)
            for partition in range(kafka.partitions):
                producer.send(EVENTS.name, key=b"aborted", value=msgspec.json.encode(event), partition=partition)
            producer.flush()
            time.sleep(TRANSACTION_S)
            producer.abort_transaction()
    return times


def model_killed(system: FaultySystem) -> int:
    """Kill the language model's server and start it again."""
    time.sleep(5.0)
    process.stop(system.settings.run_dir, "vllm", wait_s=0.0)
    system.restart_language_model()
    return 1


def model_slow(system: FaultySystem) -> int:
    """Delay every answer of the language model beyond its timeout."""
    time.sleep(5.0)
    system.model_proxy.latency_s = MODEL_TIMEOUT_S + 1.0
    time.sleep(2 * MODEL_TIMEOUT_S)
    system.model_proxy.latency_s = 0.0
    return 1


def model_garbage(system: FaultySystem) -> int:
    """Let the language model's server respond 200 OK with a meaningless body."""
    time.sleep(5.0)
    system.model_proxy.corrupt = _replace_body
    time.sleep(SLOW_FOR_S)
    system.model_proxy.corrupt = bytes
    return 1


def _replace_body(answer: bytes) -> bytes:
    head, blank_line, body = answer.partition(b"\r\n\r\n") if answer.startswith(b"HTTP/") else (b"", b"", answer)
    return head + blank_line + b"x" * len(body)


def redis_client(system: FaultySystem) -> redis.Redis:
    """A Redis connection that bypasses the proxy."""
    return redis.Redis(port=system.redis_port)


Fault = Callable[[FaultySystem], int]

CLUSTER_FAULTS: dict[str, Fault] = {"one of three brokers lost": broker_lost}
LANGUAGE_MODEL_FAULTS: dict[str, Fault] = {
    "workers killed while the language model answers": partial(kills, times=4),
    "language model killed and started again": model_killed,
    "language model answers too late": model_slow,
    "language model answers garbage": model_garbage,
}


def faults(kill_times: int, storm_times: int) -> dict[str, Fault]:
    """The faults of a system with one broker and recorded answers, by name in the report."""
    return {
        "nothing": none,
        "SIGKILL of a worker at a random moment": partial(kills, times=kill_times),
        "broker killed and restarted": broker_restart,
        "Redis killed and restarted": redis_restart,
        "Redis emptied (FLUSHALL), then rebuilt": redis_emptied,
        "Redis 200 ms slower": redis_slow,
        "Redis out of memory": redis_full,
        "Redis evicts keys, then is rebuilt": redis_evicting,
        "archive disk full": archive_full,
        "rebalance storm": partial(rebalance_storm, times=storm_times),
        "zombie worker": partial(zombie, times=max(1, storm_times // 2)),
        "transactions aborted by a producer": partial(aborted_transactions, times=storm_times),
        "worker clocks two minutes ahead and behind": clock_skew,
    }
