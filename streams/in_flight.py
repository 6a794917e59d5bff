"""Several batches of one stage under way at once, and never two that hold a record of the same key.

Two records of one item at the same time could leave the older one last in a compacted topic.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from streams.messages import RawRecord


class InFlight:
    """Starts batches as slots and keys allow. Belongs to one event loop."""

    def __init__(self, limit_batches: int) -> None:
        self._limit = limit_batches
        self._tasks: dict[asyncio.Task[None], frozenset[bytes | None]] = {}

    async def start(self, batch: Sequence[RawRecord], work: Callable[[], Awaitable[None]]) -> None:
        """Run `work`; returns when it has begun. Raises what an earlier batch raised."""
        keys = frozenset(record.key for record in batch)
        while len(self._tasks) >= self._limit or any(keys & busy for busy in self._tasks.values()):
            await self._reap()

        async def run() -> None:
            await work()

        self._tasks[asyncio.create_task(run())] = keys

    async def drain(self) -> None:
        """Wait for all."""
        while self._tasks:
            await self._reap()

    async def _reap(self) -> None:
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del self._tasks[task]
        for task in done:
            task.result()
