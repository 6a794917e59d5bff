"""PrioritySemaphore: admission by priority, and no lost slots on cancellation."""

import asyncio

import pytest

from reaseq.knowledge.llm.priority_semaphore import PrioritySemaphore


async def hold(semaphore: PrioritySemaphore, priority: int, name: str, log: list[str]) -> None:
    async with semaphore.acquire(priority):
        log.append(name)
        await asyncio.sleep(0)


async def test_free_slot_goes_to_the_highest_priority_then_the_longest_wait() -> None:
    semaphore, log = PrioritySemaphore(1), list[str]()

    async with semaphore.acquire(0):
        waiters = [
            asyncio.create_task(hold(semaphore, priority, name, log)) for priority, name in ((1, "b"), (2, "a"), (1, "c"))
        ]
        await asyncio.sleep(0)
    await asyncio.gather(*waiters)

    assert log == ["a", "b", "c"]


async def test_cancelled_wait_loses_no_slot() -> None:
    semaphore, log = PrioritySemaphore(1), list[str]()
    async with semaphore.acquire(0):
        cancelled = asyncio.create_task(hold(semaphore, 9, "cancelled", log))
        granted = asyncio.create_task(hold(semaphore, 5, "granted and cancelled", log))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
    granted.cancel()  # it has been granted the slot but has not run yet
    for task in (cancelled, granted):
        with pytest.raises(asyncio.CancelledError):
            await task

    await asyncio.wait_for(hold(semaphore, 0, "next", log), 1.0)
    assert log == ["next"]
