"""PrioritySemaphore: no more at once than the limit, the most urgent first, and none lost when a wait is given up."""

import asyncio

import pytest

from reaseq.knowledge.llm.priority_semaphore import PrioritySemaphore


async def hold(slots: PrioritySemaphore, urgency: int, name: str, log: list[str]) -> None:
    async with slots.acquired(urgency):
        log.append(name)
        await asyncio.sleep(0)


async def test_a_free_slot_goes_to_the_most_urgent_and_then_to_who_waits_longest() -> None:
    slots, log = PrioritySemaphore(1), list[str]()

    async with slots.acquired(0):
        waiting = [asyncio.create_task(hold(slots, urgency, name, log)) for urgency, name in ((1, "b"), (2, "a"), (1, "c"))]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)

    assert log == ["a", "b", "c"]


async def test_a_wait_that_is_given_up_loses_no_slot() -> None:
    slots, log = PrioritySemaphore(1), list[str]()
    async with slots.acquired(0):
        impatient = asyncio.create_task(hold(slots, 9, "impatient", log))
        granted = asyncio.create_task(hold(slots, 5, "granted and cancelled", log))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.sleep(0)
    granted.cancel()  # it has just been given the slot and has not run yet
    for task in (impatient, granted):
        with pytest.raises(asyncio.CancelledError):
            await task

    await asyncio.wait_for(hold(slots, 0, "next", log), 1.0)
    assert log == ["next"]
