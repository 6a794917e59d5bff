"""A write to Redis counts only once the replicas that the settings ask for have it."""

import os
import signal
from pathlib import Path

import pytest
from redis import Redis

from features.repository import FeatureRepository
from infra import process
from infra.process import LOOPBACK
from infra.redis import start_redis
from reaseq.errors import StoreUnavailable
from reaseq.records import History, UserFeatures
from reaseq.settings import Settings

pytestmark = pytest.mark.integration


def user(user_id: str, events_seen: int = 1) -> UserFeatures:
    return UserFeatures(user_id=user_id, event_time_ms=1000, events_seen=events_seen, history=History())


def test_write_fails_until_a_replica_has_confirmed_it(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    settings.store.profile = "production"
    settings.store.redis_replicas = 1
    port, replica_port = process.free_port(), process.free_port()
    settings.store.redis_url = type(settings.store.redis_url)(f"redis://{LOOPBACK}:{port}/0")
    replica_run_dir = tmp_path / "replica-run"
    try:
        start_redis(settings.run_dir, tmp_path / "redis", port)
        replica = start_redis(replica_run_dir, tmp_path / "replica", replica_port)
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            FeatureRepository(settings).write([user("without a replica")])

        with Redis(port=port) as primary, Redis(port=replica_port) as client:
            primary.config_set("repl-diskless-sync-delay", 0)
            client.replicaof(LOOPBACK, port)
            process.wait_until(lambda: bool(primary.wait(1, 100)), 60, "the replica", replica)

        many = [user(f"u{number}", events_seen=2) for number in range(150)]
        assert FeatureRepository(settings).write(many) == []
        assert FeatureRepository(settings).write([user("u3"), *many[4:140], user("u140")]) == [user("u3"), user("u140")]

        os.killpg(replica.pid, signal.SIGSTOP)
        for _ in range(2):  # a repeated write changes nothing in the primary, but is not confirmed either
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                FeatureRepository(settings).write([user("u", events_seen=5)])
        os.killpg(replica.pid, signal.SIGCONT)
        FeatureRepository(settings).write([user("u", events_seen=5)])
    finally:
        process.stop(settings.run_dir, "redis")
        process.stop(replica_run_dir, "redis")
