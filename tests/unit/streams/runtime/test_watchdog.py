"""The watchdog reports a stall only if offsets do not advance despite lag."""

import asyncio
from types import SimpleNamespace

from reaseq.settings import Settings
from streams.delivery.delivery import Delivery
from streams.runtime.watchdog import Watchdog
from tests.fakes.delivery import CountEvents, Journal, build_delivery, event_record

ONE, OTHER = ("events", 0), ("events", 1)


def watchdog(*deliveries: Delivery) -> tuple[Watchdog, SimpleNamespace]:
    """A watchdog that reports a stall after a minute, and its clock."""
    clock = SimpleNamespace(now=0.0)
    return Watchdog(Settings(), "group", deliveries, set, lambda: clock.now), clock


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


def test_slow_progress_idleness_and_new_partitions_are_not_stalls() -> None:
    dog, clock = watchdog()
    for step in range(10):
        clock.now = step * 50.0
        dog.check({ONE: (step, 1000), OTHER: (7, 7)})
        assert not dog.stalls()
    clock.now += 3600
    dog.check({OTHER: (7, 9), ("items", 3): (1, 50)})
    assert not dog.stalls()


async def test_worker_that_waits_for_the_store_is_not_ready_but_alive() -> None:
    delivery = build_delivery(CountEvents(), Journal(store_outages=10**6))
    dog, clock = watchdog(delivery)
    dog.check({ONE: (5, 10)})
    waiting = asyncio.create_task(delivery.handle([event_record("a")]))
    clock.now = 61.0
    while not delivery.waiting_for:  # between its waits, the batch tries again
        await asyncio.sleep(0)
    dog.check({ONE: (5, 10)})

    (stall,) = dog.stalls()
    assert stall.waiting_for == ("store_unavailable",) and not stall.consumer_stuck
    assert str(stall) == "no progress on events for 61 s, waiting for store_unavailable"
    waiting.cancel()
