"""Faults of Kafka brokers."""

import time

from infra import process
from infra.kafka.broker import install, start_again, start_broker
from tests.faults.system import FaultySystem

BROKER_AWAY_S = 15.0


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
