"""Typed reads and writes of feature records through Feast: the only access path from records to the online store."""

import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import compress, islice, repeat
from pathlib import Path
from string import Template
from typing import Literal, TypeVar

import redis
import structlog
import yaml
from feast import FeatureStore, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.repo_config import RepoConfig
from prometheus_client import Counter

from features import definitions as views
from features import plain_values, row_format
from features.declared_view import build_attribute_views
from features.packed_store import (
    KEY_VERSION,
    NEWER_ROW,
    KeyedRow,
    PackedOnlineStore,
    entity_key,
    parse_entity_id,
    row_owner,
)
from features.plain_values import Plain
from features.record_mapping import KINDS, Row, to_rows
from features.row_format import RowVersion, read_version
from features.sharding import ShardMap, shard_of
from reaseq.declaration import load_declaration
from reaseq.errors import CorruptRows, NewerRowFormat, StoreUnavailable
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import FeatureRecord, ItemAggregates, ItemFeatures, UserFeatures, Version
from reaseq.settings import Settings

log = structlog.get_logger()

R = TypeVar("R", ItemFeatures, UserFeatures, ItemAggregates)

FOLDER = Path(__file__).parent
SCAN_PAGE_ENTITIES = 500
KEY_CACHE_SIZE = 65_536

CORRUPT_ROWS = Counter("reaseq_corrupt_rows", "Entities read whose stored rows do not hold what was written", ["entity"])

ReconcileResult = Literal["equal", "behind", "ahead", "different"]
_PROFILES = {"embedded": "feature_store.yaml", "production": "feature_store.production.yaml"}
_FEATURES = {view.name: [feature.name for feature in view.features] for view in views.VIEWS}
FIRST, LAST = 0, -1


# SQLite raises these for a locked, full or damaged database; Redis for a lost connection, a timeout, or when out of memory.
_STORE_FAULTS = (sqlite3.DatabaseError, redis.RedisError, OSError)


def feast_variables(settings: Settings) -> dict[str, str]:
    """Values of the variables in the profiles' `feature_store.yaml`."""
    state = settings.state_dir.resolve()
    return {
        "REASEQ_REGISTRY": str(state / "registry.db"),
        "REASEQ_ONLINE_DB": str(state / "online.db"),
        "REASEQ_REDIS_URL": settings.store.redis_url.get_secret_value(),
        "REASEQ_REDIS_TIMEOUT_S": str(settings.store.redis_timeout_s),
        "REASEQ_REDIS_REPLICAS": str(settings.store.redis_replicas),
    }


def profile_file(settings: Settings) -> Path:
    """Path of the `feature_store.yaml` of the configured profile."""
    return FOLDER / _PROFILES[settings.store.profile]


class FeatureRepository:
    """Reads and writes feature records in the online store of the configured profile."""

    def __init__(self, settings: Settings, require_complete: bool = False) -> None:
        """With `require_complete`, reads raise StoreUnavailable while the store lacks the completeness marker, and at rows that
        only a newer release may write back (NewerRowFormat).

        Use it to build new records from stored ones: a missing row would be mistaken for a new entity.
        """
        self.settings = settings
        self._require_complete = require_complete
        self.vocabulary = load_vocabulary(settings.knowledge.vocabulary)
        text = Template(profile_file(settings).read_text()).substitute(feast_variables(settings))
        self.feast = FeatureStore(config=RepoConfig(**yaml.safe_load(text), repo_path=FOLDER))
        self.config: RepoConfig = self.feast.config
        self.online: PackedOnlineStore = self.feast._get_provider().online_store

    def apply(self) -> None:
        """Register entities, views and services with Feast, and create the tables of the online store.

        Raises InvalidDeclaration.
        """
        in_archive = views.build_views(self.settings.archive_dir.resolve())
        declared = build_attribute_views(load_declaration(self.settings.declaration_file), in_archive)
        entities = (views.item, views.user, views.item_part)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # views that are computed when they are read are "experimental"
            self.feast.apply([*entities, *in_archive, *declared, views.build_service(in_archive)])

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """Make records servable. Returns those rejected as stale, because the store holds a newer one.

        Raises StoreUnavailable. Some of the records may have been written by then; writing them again is safe.
        """
        stale: list[FeatureRecord] = []
        for same_kind in _by_kind(records).values():
            keyed_rows = [self._to_keyed_rows(record) for record in same_kind]
            with self._translate_store_errors():
                rejected = self.online.compare_and_set(self.config, keyed_rows)
            stale += compress(same_kind, rejected)
        return stale

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """The records that are not stale: the store has none that is newer. Keeps the order. Raises StoreUnavailable."""
        stored = self._read_versions(records, FIRST)
        self._check_complete([record.entity_id for record in records])
        self._check_formats(stored)
        return [
            record
            for record, version in zip(records, stored, strict=True)
            if not version or version.record_version <= record.version
        ]

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """The stored records of the same entities."""
        return [
            record
            for kind, same_kind in _by_kind(records).items()
            for record in self.read(kind, [record.entity_id for record in same_kind]).values()  # type: ignore[type-var]
        ]

    def compare(self, records: Sequence[FeatureRecord]) -> list[ReconcileResult]:
        """Compare the store with each record.

        `equal`: the same rows; `behind`: older rows or none; `ahead`: newer rows; `different`: the same version, other content.
        """
        stored = zip(records, self._read_versions(records, FIRST), self._read_versions(records, LAST), strict=True)
        return [self._compare(record, [first, last]) for record, first, last in stored]

    def stored_versions(self, kind: type[FeatureRecord], ids: Sequence[str]) -> dict[str, Version | None]:
        """The versions of the stored records, by id, without reading them; None for one of which a row is missing."""
        kind_views = KINDS[kind].views
        keys = [_entity_key(kind_views[FIRST], entity_id) for entity_id in ids]
        with self._translate_store_errors():
            versions = [self.online.read_versions(self.config, view, keys) for view in kind_views]
        return {
            entity_id: min(row.record_version for row in rows if row) if all(rows) else None
            for entity_id, *rows in zip(ids, *versions, strict=True)
        }

    def _read_versions(self, records: Sequence[FeatureRecord], view_index: int) -> list[RowVersion | None]:
        """The stored versions of the records' entities, in the first or the last of their views."""
        found: list[RowVersion | None] = [None] * len(records)
        for kind, (kind_views, *_) in KINDS.items():
            view = kind_views[view_index]
            positions = [position for position, record in enumerate(records) if type(record) is kind]
            keys = [_entity_key(view, records[position].entity_id) for position in positions]
            with self._translate_store_errors():
                versions = self.online.read_versions(self.config, view, keys) if keys else []
            for position, version in zip(positions, versions, strict=True):
                found[position] = version
        return found

    @property
    def shards(self) -> range:
        """The numbers of the shards that the entities are spread over."""
        return range(self.online.count_shards(self.config))

    def shard_of(self, entity_id: str) -> int:
        """The shard that holds an entity."""
        return shard_of(entity_id.encode(), len(self.shards))

    def find_incomplete(self, shards: Iterable[int] | None = None) -> list[int]:
        """Those of the shards, or of all, without a completeness marker: they may lack records of the feature topics.

        A new or emptied shard does not have it, nor one that has evicted rows. Raises StoreEvicts if it may evict rows, and
        ShardMapMismatch.
        """
        with self._translate_store_errors():
            return self.online.find_incomplete(self.config, self.shards if shards is None else shards)

    def is_complete(self) -> bool:
        """Whether all shards are complete."""
        return not self.find_incomplete()

    def evicted_keys(self, shard: int) -> int:
        """The number of keys that a shard has evicted since it started. Raises StoreUnavailable."""
        with self._translate_store_errors():
            return self.online.read_eviction(self.config, shard).evicted_keys

    @contextmanager
    def rebuilding(self, shards: Iterable[int] | None = None) -> Iterator[None]:
        """Set the completeness markers of the shards, or of all, when the block ends.

        Raises StoreUnavailable if rows were lost inside it.
        """
        with self._translate_store_errors():
            tokens = self.online.begin_rebuild(self.config, self.shards if shards is None else shards)
        yield
        with self._translate_store_errors():
            incomplete = self.online.end_rebuild(self.config, tokens)
        if incomplete:
            raise StoreUnavailable(f"the online store lost rows during the rebuild{self._name(incomplete)}: run it again")

    def close_to_writers(self) -> None:
        """Refuse writes from now on, because another store has replaced this one. Readers may go on."""
        with self._translate_store_errors():
            self.online.close(self.config)

    @contextmanager
    def _translate_store_errors(self) -> Iterator[None]:
        try:
            yield
        except _STORE_FAULTS as error:
            store = f"{self.settings.store.profile} online store of {self.settings.state_dir}"
            hint = "; run `reaseq up`, or `reaseq setup` on services of your own" if "no such table" in str(error) else ""
            raise StoreUnavailable(f"the {store} failed: {error}{hint}") from error

    def _check_complete(self, entity_ids: Iterable[str]) -> None:
        """Raise StoreUnavailable if completeness is required, and a shard of these entities lacks it."""
        # Checked after the read: rows read before the store was emptied are valid.
        if self._require_complete and (incomplete := self.find_incomplete(self._shards_of(entity_ids))):
            raise StoreUnavailable(
                f"the online store is incomplete (new, emptied, or rows evicted){self._name(incomplete)}: "
                "run `reaseq features rebuild`"
            )

    def _shards_of(self, entity_ids: Iterable[str]) -> set[int]:
        count = len(self.shards)
        return {shard_of(entity_id.encode(), count) for entity_id in entity_ids} if count > 1 else {0}

    def _name(self, shards: Sequence[int]) -> str:
        """The shards, for a message; nothing if the store has only one."""
        count = len(self.shards)
        return f": {', '.join(str(ShardMap(shard, count)) for shard in shards)}" if count > 1 else ""

    def _check_formats(self, versions: Iterable[RowVersion | None]) -> None:
        if self._require_complete and any(version and version.format > row_format.FORMAT for version in versions):
            raise NewerRowFormat(NEWER_ROW)

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        """The stored records of the items, by id; unknown items are left out. Raises StoreUnavailable."""
        return self.read(ItemFeatures, item_ids)

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        """The stored records of the users, by id; unknown users are left out. Raises StoreUnavailable."""
        return self.read(UserFeatures, user_ids)

    def read_available_users(self, user_ids: Sequence[str]) -> tuple[dict[str, UserFeatures], set[int]]:
        """As `read_users`, without the users of shards that do not answer, and the numbers of these shards."""
        user_views = KINDS[UserFeatures].views
        keys = [_entity_key(user_views[FIRST], user_id) for user_id in user_ids]
        try:
            with self._translate_store_errors():
                packed, failed = self.online.get_available(self.config, [(view, keys) for view in user_views])
        except StoreUnavailable:  # a store of one part
            return {}, set(self.shards)
        return self._unpack(UserFeatures, user_ids, keys, packed), failed

    def read_aggregates(self, part_ids: Sequence[str]) -> dict[str, ItemAggregates]:
        """The stored aggregates, by `to_part_id`; unknown ones are left out. Raises StoreUnavailable."""
        return self.read(ItemAggregates, part_ids)

    def scan_ids(self, view: FeatureView) -> Iterator[str]:
        """The ids of every entity that has a row in the view. Keys that no entity has are left out."""
        with self._translate_store_errors():
            for key, _ in self.online.scan(self.config, view):
                if _entity_key(view, entity_id := parse_entity_id(key)) == key:
                    yield entity_id

    def scan_user_ids(self) -> Iterator[str]:
        """The ids of all stored users."""
        return self.scan_ids(views.user_history)

    def scan_items(self) -> Iterator[list[ItemFeatures]]:
        """Every stored item record, delisted ones included, in pages."""
        return self._scan(ItemFeatures)

    def scan_aggregates(self) -> Iterator[list[ItemAggregates]]:
        """Every stored record of aggregates, in pages."""
        return self._scan(ItemAggregates)

    def _scan(self, kind: type[R]) -> Iterator[list[R]]:
        ids = self.scan_ids(KINDS[kind].views[FIRST])
        while page := list(islice(ids, SCAN_PAGE_ENTITIES)):
            yield list(self.read(kind, page).values())

    def read(self, kind: type[R], ids: Sequence[str]) -> dict[str, R]:
        """The stored records of a kind, by entity id; unknown entities are left out. Raises StoreUnavailable."""
        kind_views = KINDS[kind].views
        keys = [_entity_key(kind_views[FIRST], entity_id) for entity_id in ids]
        with self._translate_store_errors():
            packed = self.online.get_all(self.config, [(view, keys) for view in kind_views])
        self._check_complete(ids)
        return self._unpack(kind, ids, keys, packed)

    def _unpack(
        self, kind: type[R], ids: Sequence[str], keys: Sequence[bytes], packed: list[list[bytes | None]]
    ) -> dict[str, R]:
        """The records in rows that were read."""
        kind_views, _, from_rows = KINDS[kind]
        ids, packed = self._leave_out_corrupt(kind_views, ids, keys, packed)
        self._check_formats(read_version(row) for rows in packed for row in rows if row)
        found = {}
        for entity_id, *rows in zip(ids, *packed, strict=True):
            if rows[FIRST] is not None:
                time_ms, _ = read_version(rows[FIRST]).record_version
                values = [_unpack_row(view, row or b"") for view, row in zip(kind_views, rows, strict=True)]
                found[entity_id] = from_rows(entity_id, time_ms, *values)
        return found

    def _leave_out_corrupt(
        self, kind_views: Sequence[FeatureView], ids: Sequence[str], keys: Sequence[bytes], packed: list[list[bytes | None]]
    ) -> tuple[Sequence[str], list[list[bytes | None]]]:
        """The entities without corrupt rows, and their rows. Raises CorruptRows instead if records are built from them.

        The rows of an entity are written together, so one without the other is corrupt, too: not a new entity.
        """
        corrupt = {
            entity_id
            for entity_id, key, *rows in zip(ids, keys, *packed, strict=True)
            if any(row is not None for row in rows) and not all(map(_is_intact, kind_views, repeat(key), rows))
        }
        if not corrupt:
            return ids, packed
        entity = kind_views[FIRST].entities[0]
        CORRUPT_ROWS.labels(entity).inc(len(corrupt))
        log.error("corrupt_rows", entity=entity, entities=len(corrupt))
        if self._require_complete:
            raise CorruptRows(sorted(corrupt))
        kept = [position for position, entity_id in enumerate(ids) if entity_id not in corrupt]
        return [ids[position] for position in kept], [[rows[position] for position in kept] for rows in packed]

    def replace_corrupt(self, records: Sequence[FeatureRecord]) -> None:
        """Write the rows of records in place of the corrupt rows of the same entities. Raises StoreUnavailable."""
        rows = [row for record in records for row in self._to_keyed_rows(record)]
        with self._translate_store_errors():
            stored = [self.online.get(self.config, row.table, [row.key])[0] for row in rows]
            corrupt = [
                (row, old)
                for row, old in zip(rows, stored, strict=True)
                if old is not None and not _is_intact(row.table, row.key, old)
            ]
            self.online.replace(self.config, corrupt)
        self.write(records)  # the entity's other rows may be older

    def _to_keyed_rows(self, record: FeatureRecord) -> list[KeyedRow]:
        key = _entity_key(KINDS[type(record)].views[FIRST], record.entity_id)
        return [KeyedRow(row.view, key, _pack_row(row, key)) for row in to_rows(record, self.vocabulary)]

    def _compare(self, record: FeatureRecord, stored: Sequence[RowVersion | None]) -> ReconcileResult:
        if any(version is None or version.record_version < record.version for version in stored):
            return "behind"
        if any(version and version.record_version > record.version for version in stored):
            return "ahead"
        rows = self._to_keyed_rows(record)
        expected = [read_version(rows[index].row) for index in (FIRST, LAST)]
        # Rows of another format are of another release, which writes the same record differently.
        differ = any(row and row.format == own.format and row != own for row, own in zip(stored, expected, strict=True))
        return "different" if differ else "equal"


def _entity_key(view: FeatureView, entity_id: str) -> bytes:
    return _serialize_key(views.join_key(view), entity_id)


@lru_cache(maxsize=KEY_CACHE_SIZE)
def _serialize_key(join_key: str, entity_id: str) -> bytes:
    key: bytes = serialize_entity_key(entity_key(join_key, entity_id), KEY_VERSION)
    return key


def _by_kind(records: Sequence[FeatureRecord]) -> dict[type[FeatureRecord], list[FeatureRecord]]:
    by_kind: dict[type[FeatureRecord], list[FeatureRecord]] = {}
    for record in records:
        by_kind.setdefault(type(record), []).append(record)
    return by_kind


def _pack_row(row: Row, key: bytes) -> bytes:
    values = {name: plain_values.encode(value) for name, value in row.values.items()}
    revision = row.values[row_format.REVISION]
    return row_format.pack_serialized(values, row.event_time_ms * 1000, int(revision), row_owner(row.view, key))


def _unpack_row(view: FeatureView, row: bytes) -> dict[str, Plain]:
    values = row_format.unpack_serialized(row, _FEATURES[view.name])
    return {name: plain_values.decode(value) for name, value in values.items() if value}


def _is_intact(view: FeatureView, key: bytes, row: bytes | None) -> bool:
    return row is not None and row_format.is_intact(row, row_owner(view, key))
