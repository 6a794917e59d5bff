"""Buffers the records of a stage and cuts them into batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from streams.delivery.messages import RawRecord
from streams.delivery.stage import BatchPolicy


class BatchBuffer:
    """Holds records in order until a batch is full or its first record has waited long enough. Belongs to one event loop."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._waiting: deque[RawRecord] = deque()
        self._changed = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether less than a full batch is waiting; otherwise no more records should be fetched."""
        return len(self._waiting) < self._policy.limit_records

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, records: Sequence[RawRecord]) -> None:
        """Append records."""
        self._waiting.extend(records)
        self._changed.set()

    def clear(self) -> None:
        """Drop all waiting records."""
        self._waiting.clear()

    async def take(self) -> list[RawRecord]:
        """Wait for the next batch and remove it from the buffer."""
        while True:
            await self._until(lambda: bool(self._waiting))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._policy.wait_s):
                    await self._until(lambda: not self.has_room)
            batch = [self._waiting.popleft() for _ in range(min(self._policy.limit_records, len(self._waiting)))]
            if batch:  # empty if `clear` was called meanwhile
                return batch

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
