"""A bounded memory of the newest version of each entity."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from reaseq.records import FeatureRecord, Version

Kind = type[FeatureRecord]


class NewestVersions:
    """The newest version of each entity, for the `limit_entities` added last. Thread-safe."""

    def __init__(self, limit_entities: int) -> None:
        self._limit = limit_entities
        self._versions: OrderedDict[tuple[Kind, str], Version] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, records: Sequence[FeatureRecord]) -> None:
        """Remember the versions of records, unless newer ones of their entities are remembered."""
        with self._lock:
            for record in records:
                entity = type(record), record.entity_id
                self._versions[entity] = max(record.version, self._versions.get(entity, record.version))
                self._versions.move_to_end(entity)
            while len(self._versions) > self._limit:
                self._versions.popitem(last=False)

    def find(self, record: FeatureRecord) -> Version | None:
        """The remembered version of the record's entity; None if there is none."""
        with self._lock:
            return self._versions.get((type(record), record.entity_id))

    def newer(self, kind: Kind, versions: Mapping[str, Version | None]) -> dict[str, Version]:
        """The remembered versions that are newer than those given, by entity id. None is older than any."""
        with self._lock:
            remembered = {entity_id: self._versions.get((kind, entity_id)) for entity_id in versions}
        return {
            entity_id: version
            for entity_id, version in remembered.items()
            if version and version > (versions[entity_id] or (-1, -1))
        }
