"""The watchdog: offsets that stand still while there is something to do, and nothing else, are a stall."""

import asyncio
from types import SimpleNamespace

from reaseq.settings import Settings
from streams.contract.delivery import Delivery
from streams.runtime.watchdog import Watchdog
from tests.fakes.delivery import CountEvents, Journal, deliver, raw

ONE, OTHER = ("events", 0), ("events", 1)


def watchdog(*deliveries: Delivery) -> tuple[Watchdog, SimpleNamespace]:
    """A watchdog that takes a minute for too long, and its clock."""
    clock = SimpleNamespace(now=0.0)
    return Watchdog(Settings(), "group", deliveries, set, lambda: clock.now), clock


def test_a_worker_that_is_behind_and_commits_nothing_stands_still() -> None:
    dog, clock = watchdog()
    dog.look({ONE: (5, 10), OTHER: (7, 7)})
    clock.now = 59.0
    dog.look({ONE: (5, 12), OTHER: (7, 7)})
    assert not dog.stalls()

    clock.now = 61.0
    dog.look({ONE: (5, 12), OTHER: (7, 7)})

    (stall,) = dog.stalls()
    assert (stall.topic, stall.seconds, stall.dead) == ("events", 61.0, True)


def test_neither_slow_progress_nor_idleness_nor_a_new_partition_is_a_stall() -> None:
    dog, clock = watchdog()
    for step in range(10):
        clock.now = step * 50.0
        dog.look({ONE: (step, 1000), OTHER: (7, 7)})
        assert not dog.stalls()
    clock.now += 3600
    dog.look({OTHER: (7, 9), ("items", 3): (1, 50)})
    assert not dog.stalls()


async def test_one_that_waits_for_the_store_is_not_ready_but_alive() -> None:
    delivery = deliver(CountEvents(), Journal(store_is_away=10**6))
    dog, clock = watchdog(delivery)
    dog.look({ONE: (5, 10)})
    waiting = asyncio.create_task(delivery.handle([raw("a")]))
    await asyncio.sleep(0.05)
    clock.now = 61.0
    dog.look({ONE: (5, 10)})

    (stall,) = dog.stalls()
    assert stall.waiting_for == ("store_unavailable",) and not stall.dead
    assert str(stall) == "no progress on events for 61 s, waiting for store_unavailable"
    waiting.cancel()
