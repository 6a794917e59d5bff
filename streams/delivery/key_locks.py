"""Locks by record key, shared by all stages of a process.

Without them, two stages that write the same entity concurrently could leave the older record last in a compacted topic.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class KeyLocks:
    """A set of locked keys. Belongs to one event loop."""

    def __init__(self) -> None:
        self._locked: set[str] = set()
        self._released = asyncio.Condition()

    @asynccontextmanager
    async def holding(self, keys: set[str]) -> AsyncIterator[None]:
        """Lock all keys at once; waits until none of them is locked."""
        async with self._released:
            await self._released.wait_for(lambda: self._locked.isdisjoint(keys))
            self._locked |= keys
        try:
            yield
        finally:
            async with self._released:
                self._locked -= keys
                self._released.notify_all()
