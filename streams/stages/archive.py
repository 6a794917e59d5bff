"""The archive on the stream: every feature record, once confirmed by its topic, is appended to the parquet archive."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from reaseq.records import FeatureRecord
from streams.messages import Message
from streams.stage import BatchPolicy, Effects
from streams.topics import Topic


class RecordArchive(Protocol):
    """Where records are appended, durable when the call returns."""

    def append(self, records: Sequence[FeatureRecord]) -> None: ...


class ArchiveStage:
    """Follows one topic of feature records; acknowledges a batch when its file is on disk."""

    def __init__(self, source: Topic, archive: RecordArchive, batch: BatchPolicy) -> None:
        self.name = f"archive-{source.name}"
        self.source = source
        self.batch = batch
        self._archive = archive

    async def process(self, batch: Sequence[Message]) -> Effects:
        """Append the batch. A redelivered batch is appended again: readers take one row of equals."""
        await asyncio.to_thread(self._archive.append, [message.body for message in batch if message.body])
        return Effects()
