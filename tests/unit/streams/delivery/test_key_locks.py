"""Key locks: no two blocks hold the same key, and every key is released."""

import asyncio

import pytest

from streams.delivery.key_locks import KeyLocks


async def test_block_waits_until_none_of_its_keys_is_locked() -> None:
    locks = KeyLocks()

    async def lock_both() -> None:
        async with locks.holding({"a", "c"}):
            pass

    async with locks.holding({"a"}):
        async with locks.holding({"b"}):
            pass
        waiting = asyncio.create_task(lock_both())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()

    async with asyncio.timeout(30):
        await waiting


async def test_release_wakes_all_that_wait() -> None:
    locks, both_inside = KeyLocks(), asyncio.Barrier(2)

    async def lock(key: str) -> None:
        async with locks.holding({key}):
            await both_inside.wait()

    async with locks.holding({"a", "b"}):
        waiting = [asyncio.create_task(lock(key)) for key in "ab"]
        for _ in range(20):
            await asyncio.sleep(0)

    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)


async def test_keys_are_released_after_a_failure() -> None:
    locks = KeyLocks()
    with pytest.raises(ValueError, match="broken"):
        async with locks.holding({"a"}):
            raise ValueError("broken")

    async with asyncio.timeout(30), locks.holding({"a"}):
        pass
