"""The archive on the stream: every feature record, once confirmed by its topic, is appended to the parquet archive."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from reaseq.records import FeatureRecord
from streams.contract.messages import Message
from streams.contract.stage import BatchPolicy, Effects
from streams.contract.topics import Topic

COMPACT_EVERY_BATCHES = 100


class RecordArchive(Protocol):
    """Where records are appended, durable when the call returns, files made fewer, and users forgotten."""

    def append(self, records: Sequence[FeatureRecord]) -> None: ...

    def compact(self) -> int: ...

    def wishes(self, records: Sequence[FeatureRecord]) -> dict[str, int]: ...


Forget = Callable[[Sequence[str]], object]


class ArchiveStage:
    """Follows one topic of feature records; acknowledges a batch when its file is on disk.

    Of users who ask to be forgotten, the archive keeps nothing, and `forget` hears of them.
    """

    def __init__(self, source: Topic, archive: RecordArchive, batch: BatchPolicy, forget: Forget) -> None:
        self.name = f"archive-{source.name}"
        self.source = source
        self.batch = batch
        self._archive = archive
        self._forget = forget
        self._appended = 0

    async def process(self, batch: Sequence[Message]) -> Effects:
        """Append the batch. A redelivered batch is appended again: readers take one row of equals."""
        records = [message.body for message in batch if message.body]
        # Letters first: once the archive has done it, nobody asks again.
        if gone := await asyncio.to_thread(self._archive.wishes, records):
            await asyncio.to_thread(self._forget, list(gone))
        await asyncio.to_thread(self._archive.append, records)
        self._appended += 1
        if self._appended % COMPACT_EVERY_BATCHES == 0:
            await asyncio.to_thread(self._archive.compact)
        return Effects()
