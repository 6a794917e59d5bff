"""Several batches at once: as many as allowed, never two about the same item, and no failure unheard."""

import asyncio
from functools import partial

import pytest

from streams.contract.messages import RawRecord
from streams.runtime.in_flight import InFlight


def batch(*keys: str) -> list[RawRecord]:
    return [RawRecord("items", key.encode(), b"{}", 0) for key in keys]


class Work:
    """Notes when each batch begins and ends."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.at_once = self.most_at_once = 0

    async def run(self, name: str, turns: int) -> None:
        self.log.append(f"{name} begins")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(turns):
            await asyncio.sleep(0)
        self.at_once -= 1
        self.log.append(f"{name} ends")


async def test_as_many_batches_are_under_way_as_allowed() -> None:
    work, in_flight = Work(), InFlight(3)
    for number in range(8):
        await in_flight.start(batch(str(number)), partial(work.run, str(number), 5))
    await in_flight.drain()

    assert work.most_at_once == 3
    assert len(work.log) == 16


async def test_a_batch_waits_for_an_earlier_one_about_the_same_item() -> None:
    work, in_flight = Work(), InFlight(4)
    await in_flight.start(batch("a", "b"), partial(work.run, "slow", 50))
    await in_flight.start(batch("c"), partial(work.run, "other", 1))
    await in_flight.start(batch("b"), partial(work.run, "same", 1))
    await in_flight.drain()

    assert work.log.index("slow ends") < work.log.index("same begins")
    assert work.log.index("other ends") < work.log.index("slow ends")


async def test_what_a_batch_raises_is_heard() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    in_flight = InFlight(2)
    await in_flight.start(batch("a"), fail)
    with pytest.raises(ValueError, match="broken"):
        await in_flight.drain()


async def test_what_is_under_way_is_finished_or_given_up_in_time() -> None:
    work, in_flight = Work(), InFlight(3)
    await in_flight.start(batch("quick"), partial(work.run, "quick", 5))
    await in_flight.start(batch("slow"), partial(asyncio.sleep, 60))

    assert await in_flight.finish(within_s=0.05) == 1

    assert work.log == ["quick begins", "quick ends"]
    await in_flight.start(batch("slow"), partial(work.run, "again", 1))  # its key is free again
    await in_flight.drain()
    assert await in_flight.finish(within_s=0.05) == 0
