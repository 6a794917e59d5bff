"""Runs several batches at once, but never two that share a key."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from streams.delivery.messages import RawRecord


class InFlight:
    """The running batches of a stage, at most `limit_batches`. Belongs to one event loop."""

    def __init__(self, limit_batches: int) -> None:
        self._limit = limit_batches
        self._tasks: dict[asyncio.Task[None], frozenset[bytes | None]] = {}

    async def start(self, batch: Sequence[RawRecord], work: Callable[[], Awaitable[None]]) -> None:
        """Start `work` once a slot and all keys of the batch are free. Raises what an earlier batch raised."""
        keys = frozenset(record.key for record in batch)
        while len(self._tasks) >= self._limit or any(keys & busy for busy in self._tasks.values()):
            await self._reap()

        async def run() -> None:
            await work()

        self._tasks[asyncio.create_task(run())] = keys

    async def finish(self, within_s: float) -> int:
        """Wait up to `within_s` for running batches, then cancel the rest; returns how many were cancelled."""
        deadline_s = time.monotonic() + within_s
        while (running := [task for task in self._tasks if not task.done()]) and time.monotonic() < deadline_s:
            await asyncio.wait(running, timeout=deadline_s - time.monotonic())
        for task in running:
            task.cancel()
        return len(running)

    async def drain(self) -> None:
        """Wait for all running batches. Raises what one of them raised."""
        while self._tasks:
            await self._reap()

    async def _reap(self) -> None:
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        reaped = done & self._tasks.keys()  # another caller may have waited for the same tasks
        for task in reaped:
            del self._tasks[task]
        for task in reaped:
            if not task.cancelled():
                task.result()
