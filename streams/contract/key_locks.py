"""Locks by record key, over all stages of a process.

Two stages that write records of one entity at the same time could leave the older record last in a compacted topic.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class KeyLocks:
    """Which records are being written, over all stages of a process. Belongs to one event loop."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._released = asyncio.Condition()

    @asynccontextmanager
    async def holding(self, keys: set[str]) -> AsyncIterator[None]:
        """Have the keys for oneself; waits while somebody else has one of them."""
        async with self._released:
            await self._released.wait_for(lambda: self._held.isdisjoint(keys))
            self._held |= keys
        try:
            yield
        finally:
            async with self._released:
                self._held -= keys
                self._released.notify_all()
