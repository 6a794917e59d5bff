"""Faults of Redis."""

import time

import redis

from features.repository import FeatureRepository
from infra import process
from infra.process import LOOPBACK
from streams.operations.rebuild import rebuild
from tests.faults.system import FAULT_S, FaultySystem

REDIS_AWAY_S = 4.0
LATENCY_S = 0.2
KEPT_SHARE = 0.9


def redis_restart(system: FaultySystem) -> int:
    """Kill Redis and start it again on its append-only file."""
    time.sleep(1.0)
    process.stop(system.settings.run_dir, "redis", wait_s=0.0)
    time.sleep(REDIS_AWAY_S)
    system.restart_redis()
    return 1


def redis_replaced(system: FaultySystem) -> int:
    """Kill Redis, start an empty one at its address, and rebuild what it lacks."""
    time.sleep(1.0)
    process.stop(system.settings.run_dir, "redis", wait_s=0.0)
    time.sleep(REDIS_AWAY_S)
    system.restart_redis(data="another redis")
    store = FeatureRepository(system.settings)
    rebuild(system.settings, store, shards=store.find_incomplete())
    return 1


def redis_emptied(system: FaultySystem) -> int:
    """Empty Redis (FLUSHALL), then rebuild it."""
    time.sleep(1.0)
    system.redis_client().flushall()
    time.sleep(REDIS_AWAY_S)
    rebuild(system.settings, FeatureRepository(system.settings))
    return 1


def redis_slow(system: FaultySystem) -> int:
    """Delay every Redis response by 200 ms."""
    system.proxy.latency_s = LATENCY_S
    time.sleep(FAULT_S)
    system.proxy.latency_s = 0.0
    return 1


def redis_full(system: FaultySystem) -> int:
    """Let Redis run out of memory, so that it rejects writes, then give it more."""
    time.sleep(1.0)
    system.redis_client().config_set("maxmemory", 1)
    time.sleep(REDIS_AWAY_S)
    system.redis_client().config_set("maxmemory", 0)
    return 1


def redis_evicting(system: FaultySystem) -> int:
    """Let Redis evict keys for a while, until an operator notices and rebuilds it."""
    time.sleep(1.0)
    client = system.redis_client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * KEPT_SHARE))  # type: ignore[index]
    while not client.info("stats")["evicted_keys"]:  # type: ignore[index]
        time.sleep(0.1)
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")
    time.sleep(REDIS_AWAY_S)
    rebuild(system.settings, FeatureRepository(system.settings))
    return 1


def redis_failover(system: FaultySystem) -> int:
    """Kill Redis while its replica lags behind, and promote the replica.

    If writes wait for replicas, nothing is lost, and the former primary joins again as a replica. If they do not, the last
    writes are lost, and an operator rebuilds the store.
    """
    settings = system.settings
    waits = settings.store.redis_replicas > 0
    if not waits:
        system.start_replica()
        time.sleep(1.0)
    with redis.Redis(port=system.replica_port) as replica:
        replica.replicaof("NO", "ONE")  # writes from here on are confirmed by the primary alone, or not at all
        time.sleep(REDIS_AWAY_S)
        process.stop(settings.run_dir, "redis", wait_s=0.0)
        system.proxy.target_port = system.replica_port
        system.proxy.disconnect()
    if waits:
        system.restart_redis()
        system.redis_client().replicaof(LOOPBACK, system.replica_port)
    else:
        time.sleep(REDIS_AWAY_S)
        rebuild(settings, FeatureRepository(settings))
    return 1
