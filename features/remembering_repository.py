"""A repository that notices when the store has lost or damaged a record, and restores it before anything builds on the loss.

Redis can lose confirmed writes and keep the completeness marker: in a failover to a replica that lacks them, when a backup is
restored, or when rows are deleted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import structlog

from features.newest_versions import Kind, NewestVersions
from features.record_mapping import KINDS
from features.repository import FeatureRepository
from reaseq.errors import CorruptRows, StoreUnavailable
from reaseq.records import FeatureRecord, ItemAggregates, ItemFeatures, UserFeatures, Version
from reaseq.settings import Settings

log = structlog.get_logger()

R = TypeVar("R", ItemFeatures, UserFeatures, ItemAggregates)
ReadLost = Callable[[Kind, Mapping[str, Version]], Iterable[list[FeatureRecord]]]


class RememberingRepository(FeatureRepository):
    """The repository of a stream worker: requires a complete store, and returns nothing older than what it wrote itself.

    A corrupt row is replaced by the newest record of its entity in the topic.
    """

    def __init__(self, settings: Settings, read_lost: ReadLost) -> None:
        """`read_lost` reads records again from their topic, at least those of the given ids and versions."""
        super().__init__(settings, require_complete=True)
        self._written = NewestVersions(settings.worker.remembered_entities)
        self._read_lost = read_lost

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        stale = super().write(records)
        self._written.add(records)
        return stale

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        fresh = super().drop_stale(records)
        # A record that is older than what was written here is fresh only in a store that lost the newer one.
        restored = [
            self._restore(kind, {record.entity_id: record.version for record in fresh if type(record) is kind})
            for kind in KINDS
        ]
        return super().drop_stale(records) if any(restored) else fresh

    def read(self, kind: type[R], ids: Sequence[str]) -> dict[str, R]:
        try:
            found = super().read(kind, ids)
        except CorruptRows as corrupt:
            self._replace_corrupt(kind, corrupt.ids)
            found = super().read(kind, ids)
        versions = {entity_id: found[entity_id].version if entity_id in found else None for entity_id in ids}
        return super().read(kind, ids) if self._restore(kind, versions) else found

    def _restore(self, kind: Kind, versions: Mapping[str, Version | None]) -> bool:
        """Restore the entities of which newer versions than these were written. Returns whether there was any.

        Raises StoreUnavailable if the topic does not bring them back.
        """
        suspected = self._written.newer(kind, versions)
        # A row that cannot be decoded is missing from what was read, but is not lost: its version is still there.
        lost = self._lost(kind, list(suspected))
        if not lost:
            return False
        log.warning("store_lost_records", kind=kind.__name__, entities=len(lost), example=next(iter(lost)))
        shards = {self.shard_of(entity_id) for entity_id in lost}
        for records in self._read_lost(kind, lost):
            # The shards may have lost other records as well. The other shards have not, and may be unavailable.
            super().write([record for record in records if self.shard_of(record.entity_id) in shards])
        if self._lost(kind, list(lost)):
            raise StoreUnavailable(f"the online store lost records of {len(lost)} entities, and they could not be restored")
        return True

    def _replace_corrupt(self, kind: Kind, ids: Sequence[str]) -> None:
        """Write the newest records of the topic in place of corrupt rows."""
        newest: dict[str, FeatureRecord] = {}
        for records in self._read_lost(kind, dict.fromkeys(ids, (-1, -1))):
            for record in records:
                if record.entity_id in ids and (
                    record.entity_id not in newest or record.version >= newest[record.entity_id].version
                ):
                    newest[record.entity_id] = record
        self.replace_corrupt(list(newest.values()))

    def _lost(self, kind: Kind, ids: Sequence[str]) -> dict[str, Version]:
        """The entities whose stored rows are older than what was written, with the version that was written."""
        return self._written.newer(kind, self.stored_versions(kind, ids)) if ids else {}
