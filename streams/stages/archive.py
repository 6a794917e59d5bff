"""The archive stage: appends every feature record that its topic has confirmed to the parquet archive.

A compacted topic must end with the newest record of each entity, but the late record of a worker that was evicted from the
group (a zombie) may follow it. This stage sees every record in order, so it has the newer one produced again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from reaseq.records import FeatureRecord
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import Topic

COMPACT_EVERY_BATCHES = 100

OnErasure = Callable[[Sequence[str]], object]


class NewestRecords(Protocol):
    """The store, which has the newest record of each entity."""

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """The records that are not older than the stored record of the same entity."""
        ...


class RecordArchive(Protocol):
    """The archive that the stage writes to."""

    def append(self, records: Sequence[FeatureRecord]) -> None:
        """Write records durably, and carry out their erasure requests."""
        ...

    def compact(self) -> int:
        """Merge small files."""
        ...

    def erasure_requests(self, records: Sequence[FeatureRecord]) -> dict[str, int]:
        """The records' erasure requests that have not been carried out yet, by user id."""
        ...


class ArchiveStage:
    """Archives one topic of feature records. A batch is acknowledged when its files are on disk.

    `on_erasure` is called with the users that have a new erasure request; the archive erases their rows itself.
    """

    def __init__(
        self, source: Topic, archive: RecordArchive, store: NewestRecords, batch: BatchPolicy, on_erasure: OnErasure
    ) -> None:
        self.name = f"archive-{source.name}"
        self.source = source
        self.batch = batch
        self._archive = archive
        self._store = store
        self._on_erasure = on_erasure
        self._appended = 0

    async def process(self, batch: Sequence[Message]) -> Effects:
        """Append the batch. Its effects name the entities whose last record is superseded.

        The newer record may follow later in the topic, rather than come before; then it only stands there twice. A redelivered
        batch is appended again: readers keep one of equal rows.
        """
        records = [message.body for message in batch if message.body]
        superseded = await asyncio.to_thread(self._superseded, {record.entity_id: record for record in records})
        # `on_erasure` goes first: once the archive has carried out a request, the request is no longer reported.
        if requests := await asyncio.to_thread(self._archive.erasure_requests, records):
            await asyncio.to_thread(self._on_erasure, list(requests))
        await asyncio.to_thread(self._archive.append, records)
        self._appended += 1
        if self._appended % COMPACT_EVERY_BATCHES == 0:
            await asyncio.to_thread(self._archive.compact)
        return Effects(counts=Counter(superseded_last=len(superseded)), superseded=superseded)

    def _superseded(self, last: dict[str, FeatureRecord]) -> list[FeatureRecord]:
        fresh = {record.entity_id for record in self._store.drop_stale(list(last.values()))}
        return [record for entity_id, record in last.items() if entity_id not in fresh]
