"""The archive stage: appends every feature record that its topic has confirmed to the parquet archive.

A compacted topic must end with the newest record of each entity, but the late record of a worker that was evicted from the
group (a zombie) may follow it. This stage sees every record in order, so it has the newer one produced again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from features.newest_versions import NewestVersions
from reaseq.records import FeatureRecord
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import Topic

COMPACT_EVERY_BATCHES = 100
SEEN_LIMIT_ENTITIES = 100_000

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
        self._seen = NewestVersions(SEEN_LIMIT_ENTITIES)
        self._appended = 0

    async def process(self, batch: Sequence[Message]) -> Effects:
        """Append the batch. Its effects name the entities whose last record is superseded.

        Where none of an entity's records is remembered, the newer one may follow later in the topic, rather than have come
        before; then it only stands there twice. A redelivered batch is appended again: readers keep one of equal rows.
        """
        records = [message.body for message in batch if message.body]
        superseded = await asyncio.to_thread(self._superseded, find_suspects(records, self._seen))
        # `on_erasure` goes first: once the archive has carried out a request, the request is no longer reported.
        if requests := await asyncio.to_thread(self._archive.erasure_requests, records):
            await asyncio.to_thread(self._on_erasure, list(requests))
        await asyncio.to_thread(self._archive.append, records)
        self._seen.add(records)
        self._appended += 1
        if self._appended % COMPACT_EVERY_BATCHES == 0:
            await asyncio.to_thread(self._archive.compact)
        return Effects(counts=Counter(superseded_last=len(superseded)), superseded=superseded)

    def _superseded(self, suspects: list[FeatureRecord]) -> list[FeatureRecord]:
        fresh = {record.entity_id for record in self._store.drop_stale(suspects)} if suspects else set()
        return [record for record in suspects if record.entity_id not in fresh]


def find_suspects(records: Sequence[FeatureRecord], seen: NewestVersions) -> list[FeatureRecord]:
    """The last record of each entity that may be stale: a newer one came before it, or none was seen."""
    newest = {record.entity_id: seen.find(record) for record in records}
    unknown = {entity_id for entity_id, version in newest.items() if version is None}
    last: dict[str, tuple[FeatureRecord, bool]] = {}
    for record in records:
        before = newest[record.entity_id] or record.version
        last[record.entity_id] = (record, record.version < before)
        newest[record.entity_id] = max(before, record.version)
    return [record for entity_id, (record, is_older) in last.items() if is_older or entity_id in unknown]
