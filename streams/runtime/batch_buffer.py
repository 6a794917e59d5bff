"""What a stage has been handed and has not taken yet, cut into batches. Belongs to one event loop."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from streams.contract.messages import RawRecord
from streams.contract.stage import BatchPolicy


class BatchBuffer:
    """Keeps records in their order until a batch is full, or the first of them has waited long enough."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._waiting: list[RawRecord] = []
        self._changed = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether there is less than a batch: more should not be fetched before it is taken."""
        return len(self._waiting) < self._policy.limit_records

    def put(self, records: Sequence[RawRecord]) -> None:
        """Hand on records."""
        self._waiting += records
        self._changed.set()

    def clear(self) -> None:
        """Forget what has not been taken."""
        self._waiting = []

    async def take(self) -> list[RawRecord]:
        """The next batch; waits for it."""
        while True:
            await self._until(lambda: bool(self._waiting))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._policy.wait_s):
                    await self._until(lambda: not self.has_room)
            limit = self._policy.limit_records
            batch, self._waiting = self._waiting[:limit], self._waiting[limit:]
            if batch:  # else they were cleared meanwhile
                return batch

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
