"""The faults: each acts on a running system under load, and returns how often it struck."""

import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial

import redis

from features.repository import FeatureRepository
from infra import process
from infra.kafka.broker import install, start_again, start_broker
from streams.operations.rebuild import rebuild
from tests.faults.system import MODEL_TIMEOUT_S, SESSION_TIMEOUT_S, FaultySystem

KILL_INTERVAL_S = (0.5, 6.0)
REDIS_AWAY_S = 4.0
BROKER_AWAY_S = 15.0
LATENCY_S = 0.2
SLOW_FOR_S = 10.0
CLOCK_AHEAD_S = 120.0
ARCHIVE_MIB = 1


def none(system: FaultySystem) -> int:
    """Nothing happens."""
    return 0


def kills(system: FaultySystem, times: int) -> int:
    """SIGKILL at random moments, in whatever stage it meets a worker; another takes its place."""
    for _ in range(times):
        time.sleep(system.random.uniform(*KILL_INTERVAL_S))
        system.replace(system.random.choice(system.workers))
    return times


def broker_restart(system: FaultySystem) -> int:
    """The only broker is killed and started again."""
    settings = system.settings
    time.sleep(1.0)
    broker = process.find(settings.run_dir, "kafka")
    assert broker
    process.stop(settings.run_dir, "kafka", wait_s=0.0)
    state = settings.state_dir.resolve()
    margin = settings.kafka.max_message_bytes + 64 * 1024
    start_broker(settings.run_dir, state / "kafka" / "data", install(state), broker.ports[0], max_message_bytes=margin)
    for worker in list(system.workers):  # one that could neither deliver nor to_dead_letter has ended, as it should
        if not worker.alive:
            system.workers.remove(worker)
            system.start_worker()
    return 1


def broker_lost(system: FaultySystem) -> int:
    """Each of three brokers in turn is killed, stays away for a while, and comes back."""
    settings = system.settings
    for number in (1, 2, 3):
        broker = process.find(settings.run_dir, f"kafka-{number}")
        assert broker
        process.stop(settings.run_dir, broker.name, wait_s=0.0)
        time.sleep(BROKER_AWAY_S)
        assert all(worker.alive for worker in system.workers)  # two of three replicas are there: nothing is to be waited for
        start_again(settings.run_dir, install(settings.state_dir.resolve()), broker)
        time.sleep(BROKER_AWAY_S)
    return 3


def redis_restart(system: FaultySystem) -> int:
    """Redis is killed, and comes back with what it had written."""
    time.sleep(1.0)
    process.stop(system.settings.run_dir, "redis", wait_s=0.0)
    time.sleep(REDIS_AWAY_S)
    system.restart_redis()
    return 1


def redis_emptied(system: FaultySystem) -> int:
    """FLUSHALL, and a rebuild."""
    time.sleep(1.0)
    client(system).flushall()
    time.sleep(REDIS_AWAY_S)
    rebuild(system.settings, FeatureRepository(system.settings))
    return 1


def redis_slow(system: FaultySystem) -> int:
    """Every answer of Redis comes 200 ms late."""
    system.proxy.latency_s = LATENCY_S
    time.sleep(SLOW_FOR_S)
    system.proxy.latency_s = 0.0
    return 1


def redis_full(system: FaultySystem) -> int:
    """Redis is out of memory and rejects writes, then gets more."""
    time.sleep(1.0)
    client(system).config_set("maxmemory", 1)
    time.sleep(REDIS_AWAY_S)
    client(system).config_set("maxmemory", 0)
    return 1


def archive_full(system: FaultySystem) -> int:
    """No space is left on the archive's disk, then there is."""
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
    """Workers come and go, some killed, some told to, faster than a group settles."""
    for number in range(times):
        extra = system.start_worker()
        time.sleep(system.random.uniform(2.0, 5.0))
        extra.kill(signal.SIGTERM if number % 2 else signal.SIGKILL)
        system.workers.remove(extra)
    return times


def zombie(system: FaultySystem, times: int) -> int:
    """A worker stands still until the group takes it for dead, then goes on with what it has in hand."""
    for _ in range(times):
        worker = system.random.choice(system.workers)
        worker.kill(signal.SIGSTOP)
        time.sleep(SESSION_TIMEOUT_S + 4.0)
        worker.kill(signal.SIGCONT)
        time.sleep(4.0)
    return times


def clock_skew(system: FaultySystem) -> int:
    """A worker's clock is two minutes ahead, another's two minutes behind."""
    for ahead_s in (CLOCK_AHEAD_S, -CLOCK_AHEAD_S):
        worker = system.workers.pop(0)
        worker.kill(signal.SIGTERM)
        system.start_worker(clock_ahead_s=ahead_s)
    system.wait_ready()
    time.sleep(SLOW_FOR_S)
    return 2


def model_killed(system: FaultySystem) -> int:
    """The language model's server is killed, and comes back as soon as it has loaded its model."""
    time.sleep(5.0)
    process.stop(system.settings.run_dir, "vllm", wait_s=0.0)
    system.restart_language_model()
    return 1


def model_slow(system: FaultySystem) -> int:
    """Every answer of the language model comes when nobody waits for it any more."""
    time.sleep(5.0)
    system.model_proxy.latency_s = MODEL_TIMEOUT_S + 1.0
    time.sleep(2 * MODEL_TIMEOUT_S)
    system.model_proxy.latency_s = 0.0
    return 1


def model_garbage(system: FaultySystem) -> int:
    """The language model's server answers 200 OK, and nothing else that makes sense."""
    time.sleep(5.0)
    system.model_proxy.spoil = _without_sense
    time.sleep(SLOW_FOR_S)
    system.model_proxy.spoil = bytes
    return 1


def _without_sense(answer: bytes) -> bytes:
    head, blank_line, body = answer.partition(b"\r\n\r\n") if answer.startswith(b"HTTP/") else (b"", b"", answer)
    return head + blank_line + b"x" * len(body)


def client(system: FaultySystem) -> redis.Redis:
    """A connection of our own, past the proxy."""
    return redis.Redis(port=system.redis_port)


Fault = Callable[[FaultySystem], int]

OF_A_CLUSTER: dict[str, Fault] = {"one of three brokers lost": broker_lost}
OF_A_LANGUAGE_MODEL: dict[str, Fault] = {
    "workers killed while the language model answers": partial(kills, times=4),
    "language model killed and started again": model_killed,
    "language model answers nobody in time": model_slow,
    "language model answers garbage": model_garbage,
}


def faults(kill_times: int, storm_times: int) -> dict[str, Fault]:
    """The faults of a system with one broker and recorded answers, by their names in the report."""
    return {
        "nothing": none,
        "SIGKILL of a worker at a random moment": partial(kills, times=kill_times),
        "broker killed and restarted": broker_restart,
        "Redis killed and restarted": redis_restart,
        "Redis emptied (FLUSHALL), then rebuilt": redis_emptied,
        "Redis 200 ms late": redis_slow,
        "Redis out of memory": redis_full,
        "no space for the archive": archive_full,
        "workers come and go": partial(rebalance_storm, times=storm_times),
        "a worker taken for dead goes on": partial(zombie, times=max(1, storm_times // 2)),
        "clocks two minutes ahead and behind": clock_skew,
    }
