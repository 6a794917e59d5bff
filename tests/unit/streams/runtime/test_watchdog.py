"""The watchdog reports a stall only if offsets do not advance despite lag."""

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError
from prometheus_client import REGISTRY

from reaseq.settings import Settings
from streams.delivery.delivery import Delivery
from streams.runtime import watchdog as module
from streams.runtime.watchdog import Watchdog
from tests.fakes.delivery import CountEvents, Journal, build_delivery, event_record

ONE, OTHER, ITEMS = ("events", 0), ("events", 1), ("items", 0)


def watchdog(*deliveries: Delivery) -> tuple[Watchdog, SimpleNamespace]:
    """A watchdog that reports a stall after a minute, and its clock."""
    clock = SimpleNamespace(now=0.0)
    return Watchdog(Settings(), "group", deliveries, lambda: {ONE, OTHER}, lambda: clock.now), clock


def metric(name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"topic": "events"})


def test_lag_without_commits_is_a_stall() -> None:
    dog, clock = watchdog()
    dog.check({ONE: (5, 10), OTHER: (7, 7)})
    clock.now = 59.0
    dog.check({ONE: (5, 12), OTHER: (7, 7)})
    assert not dog.stalls()

    clock.now = 61.0
    dog.check({ONE: (5, 12), OTHER: (7, 7)})

    (stall,) = dog.stalls()
    assert (stall.topic, stall.seconds, stall.consumer_stuck) == ("events", 61.0, True)
    assert metric("reaseq_commit_stalled_seconds") == 61.0


def test_slow_progress_idleness_and_new_partitions_are_not_stalls() -> None:
    dog, clock = watchdog()
    for step in range(10):
        clock.now = step * 50.0
        dog.check({ONE: (step, 1000), OTHER: (7, 7)})
        assert not dog.stalls()
    clock.now += 3600
    dog.check({OTHER: (7, 9), ITEMS: (1, 50)})
    assert not dog.stalls()
    clock.now += 3600
    dog.check({ONE: (9, 1000)})  # assigned again
    assert not dog.stalls()


async def test_worker_that_waits_for_the_store_is_not_ready_but_alive() -> None:
    delivery = build_delivery(CountEvents(), Journal(store_outages=10**6))
    dog, clock = watchdog(delivery)
    dog.check({ONE: (5, 10), ITEMS: (1, 2)})
    waiting = asyncio.create_task(delivery.handle([event_record("a")]))
    async with asyncio.timeout(30):
        while not delivery.waiting_for:
            await asyncio.sleep(0.001)
    clock.now = 61.0
    dog.check({ONE: (5, 10), ITEMS: (1, 2)})

    stall, unread = dog.stalls()
    assert stall.waiting_for == ("store_unavailable",) and not stall.consumer_stuck
    assert str(stall) == "no progress on events for 61 s, waiting for store_unavailable"
    assert unread.waiting_for == () and unread.consumer_stuck  # no stage of this worker reads items
    waiting.cancel()


class Brokers:
    """A fake consumer. Of one partition nothing is committed, and retention has removed the first five records."""

    reachable = True

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        if not self.reachable:
            raise KafkaTimeoutError
        return dict.fromkeys(partitions, 5)

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 10)

    def committed(self, partition: TopicPartition, timeout_ms: int) -> int | None:
        return None if partition == ONE else 8


def test_brokers_that_become_unreachable_are_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers, (dog, clock) = Brokers(), watchdog()
    seen: list[list[str]] = []  # the stalls after each check
    finished = threading.Event()

    def sleep(seconds: float) -> None:
        seen.append([str(stall) for stall in dog.stalls()])
        clock.now += seconds
        brokers.reachable = len(seen) == 1
        if len(seen) == 7:
            finished.set()
            threading.Event().wait()

    monkeypatch.setattr(module, "new_consumer", lambda *_: brokers)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep))
    dog.start()

    assert finished.wait(timeout=30)
    assert metric("reaseq_lag_records") == 5 + 2
    assert seen == [[]] * 6 + [["no progress on events for 60 s, 0 batches in flight"]]
