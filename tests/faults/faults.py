"""The faults: each acts on a running system under load, and returns how often it did so."""

from collections.abc import Callable
from functools import partial

from tests.faults.broker_faults import broker_lost, broker_restart
from tests.faults.model_faults import model_garbage, model_killed, model_slow
from tests.faults.record_faults import aborted_transactions, events_from_2096, undecodable_records
from tests.faults.redis_faults import (
    redis_emptied,
    redis_evicting,
    redis_failover,
    redis_full,
    redis_replaced,
    redis_restart,
    redis_slow,
)
from tests.faults.system import FaultySystem
from tests.faults.worker_faults import archive_full, clock_skew, kills, rebalance_storm, upgrade_and_rollback, zombie

Fault = Callable[[FaultySystem], int]

REPLICA_FAULTS: dict[str, Fault] = {"Redis fails over, writes wait for its replica": redis_failover}
SHARD_FAULTS: dict[str, Fault] = {
    "one of three shards killed and restarted": redis_restart,
    "one of three shards emptied, then rebuilt": redis_emptied,
    "one of three shards replaced by an empty one, then rebuilt": redis_replaced,
    "one of three shards out of memory": redis_full,
}
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
        "worker clocks ten minutes ahead and behind": clock_skew,
        "undecodable records in every topic": partial(undecodable_records, times=storm_times),
        "events from 2096": partial(events_from_2096, times=storm_times),
        "rolling upgrade to newer rows, then rollback": upgrade_and_rollback,
        "Redis fails over without its last writes, then is rebuilt": redis_failover,  # the last one: Redis has moved
    }


def none(system: FaultySystem) -> int:
    """No fault."""
    return 0
