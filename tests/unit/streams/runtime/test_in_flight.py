"""Concurrent batches: up to the limit, never two with the same key, and no failure is lost."""

import asyncio
from functools import partial

import pytest

from streams.delivery.messages import RawRecord
from streams.runtime.in_flight import InFlight


def batch(*keys: str) -> list[RawRecord]:
    return [RawRecord("items", key.encode(), b"{}", 0) for key in keys]


class Work:
    """Records when each batch starts and ends."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.running = self.most_running = 0

    async def run(self, name: str, yields: int) -> None:
        self.log.append(f"{name} starts")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        for _ in range(yields):
            await asyncio.sleep(0)
        self.running -= 1
        self.log.append(f"{name} ends")


async def never_end() -> None:
    await asyncio.Event().wait()


async def test_batches_run_up_to_the_limit() -> None:
    work, in_flight = Work(), InFlight(3)
    for number in range(8):
        await in_flight.start(batch(str(number)), partial(work.run, str(number), 5 * (number + 1)))
    await in_flight.drain()

    assert work.most_running == 3
    assert len(work.log) == 16


async def test_batch_starts_as_soon_as_one_slot_is_free() -> None:
    work, in_flight = Work(), InFlight(2)
    await in_flight.start(batch("never ends"), never_end)
    async with asyncio.timeout(30):
        for key in "abc":
            await in_flight.start(batch(key), partial(work.run, key, 1))

    assert await in_flight.finish(within_s=0.05) == 1
    assert work.log[-1] == "c ends"


async def test_batch_waits_for_an_earlier_one_with_the_same_key() -> None:
    work, in_flight = Work(), InFlight(4)
    await in_flight.start(batch("a", "b"), partial(work.run, "slow", 50))
    await in_flight.start(batch("c"), partial(work.run, "other", 1))
    await in_flight.start(batch("b"), partial(work.run, "same", 1))
    await in_flight.drain()

    assert work.log.index("slow ends") < work.log.index("same starts")
    assert work.log.index("other ends") < work.log.index("slow ends")


async def test_drain_raises_what_a_batch_raised() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    in_flight = InFlight(2)
    await in_flight.start(batch("a"), fail)
    with pytest.raises(ValueError, match="broken"):
        await in_flight.drain()


async def test_finish_waits_until_the_deadline_then_cancels() -> None:
    work, in_flight = Work(), InFlight(3)
    await in_flight.start(batch("quick"), partial(work.run, "quick", 5))
    await in_flight.start(batch("slow"), never_end)

    assert await in_flight.finish(within_s=0.05) == 1

    assert work.log == ["quick starts", "quick ends"]
    async with asyncio.timeout(30):
        await in_flight.start(batch("slow"), partial(work.run, "again", 1))  # its key is free again
        await in_flight.drain()
    assert await in_flight.finish(within_s=0.05) == 0


async def test_several_callers_may_wait_for_the_same_batch() -> None:
    work, in_flight = Work(), InFlight(1)
    await in_flight.start(batch("a"), partial(work.run, "a", 5))

    await asyncio.gather(*(in_flight.start(batch(key), partial(work.run, key, 1)) for key in "bcd"))
    await in_flight.drain()

    assert work.most_running == 1
    assert sorted(line for line in work.log if line.endswith("ends")) == ["a ends", "b ends", "c ends", "d ends"]
