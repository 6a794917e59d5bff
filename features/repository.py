"""Typed reads and writes of feature records through Feast: the only door between records and the store."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any, Literal

import redis
import yaml
from feast import FeatureStore, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig

from features import definitions as views
from features.packed_store import KEY_VERSION, PackedOnlineStore, PlacedRow, entity_key, parse_entity_id, unpacked
from features.record_mapping import Row, item_record, to_rows, user_record
from features.row_format import RowVersion, pack, read_version
from reaseq.errors import StoreUnavailable
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import FeatureRecord, ItemFeatures, UserFeatures
from reaseq.settings import Settings

FOLDER = Path(__file__).parent
SCAN_PAGE_ITEMS = 500
KEYS_REMEMBERED = 65_536

ReconcileResult = Literal["equal", "behind", "ahead", "different"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PROFILES = {"embedded": "feature_store.yaml", "production": "feature_store.production.yaml"}
# A record's views, written and read together.
_ITEM_VIEWS = (views.item_representation, views.item_knowledge)
_USER_VIEWS = (views.user_history, views.user_inferred)
FIRST, LAST = 0, -1


# SQLite says "operational" of a locked or full database; Redis drops, rejects or times out, and says so when out of memory.
_STORE_FAULTS = (sqlite3.OperationalError, redis.RedisError, OSError)


def feast_variables(settings: Settings) -> dict[str, str]:
    """What the profiles' YAML leaves open."""
    state = settings.state_dir.resolve()
    return {
        "REASEQ_REGISTRY": str(state / "registry.db"),
        "REASEQ_ONLINE_DB": str(state / "online.db"),
        "REASEQ_REDIS_URL": settings.store.redis_url.get_secret_value(),
        "REASEQ_REDIS_TIMEOUT_S": str(settings.store.redis_timeout_s),
        "REASEQ_REDIS_REPLICAS": str(settings.store.redis_replicas),
    }


def profile_file(settings: Settings) -> Path:
    """The `feature_store.yaml` of the profile in force."""
    return FOLDER / _PROFILES[settings.store.profile]


class FeatureRepository:
    """Feature records in and out of the online store, in whichever profile the settings name."""

    def __init__(self, settings: Settings, require_complete: bool = False) -> None:
        """`require_complete`, for whoever makes new records of old ones: reads raise StoreUnavailable while it is not whole."""
        self.settings = settings
        self._require_complete = require_complete
        self.vocabulary = load_vocabulary(settings.knowledge.vocabulary)
        text = Template(profile_file(settings).read_text()).substitute(feast_variables(settings))
        self.feast = FeatureStore(config=RepoConfig(**yaml.safe_load(text), repo_path=FOLDER))
        self.config: RepoConfig = self.feast.config
        self.online: PackedOnlineStore = self.feast._get_provider().online_store

    def apply(self) -> None:
        """Register entities, views and services with Feast, and create what the online store needs."""
        in_archive = views.build_views(self.settings.archive_dir.resolve())
        self.feast.apply([views.item, views.user, *in_archive, views.build_service(in_archive)])

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """ScorerFactory records servable. Older records than those in the store change nothing: these are returned.

        Raises StoreUnavailable, after which some of the records may be servable: write them again.
        """
        placed = [self._placed(record) for record in records]
        with self._faults_named():
            kept_out = self.online.put(self.config, placed)
        return [record for record, newer in zip(records, kept_out, strict=True) if newer]

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """Those of the records that are not older than what the store holds of the same entity, in their order."""
        held = self._read_versions(records, FIRST)
        self._check_complete()
        return [record for record, row in zip(records, held, strict=True) if not row or row.of_record <= record.version]

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """The records that the store holds of the same entities."""
        items = self.read_items([record.item_id for record in records if isinstance(record, ItemFeatures)])
        users = self.read_users([record.user_id for record in records if isinstance(record, UserFeatures)])
        return [*items.values(), *users.values()]

    def compare(self, records: Sequence[FeatureRecord]) -> list[ReconcileResult]:
        """How the store stands to each record: of its order, of an older one (or none), of a newer one, or differently."""
        held = zip(records, self._read_versions(records, FIRST), self._read_versions(records, LAST), strict=True)
        return [self._compare(record, [first, last]) for record, first, last in held]

    def _read_versions(self, records: Sequence[FeatureRecord], place: int) -> list[RowVersion | None]:
        """What the store holds of the records' entities in the first or the last of their views."""
        found: list[RowVersion | None] = [None] * len(records)
        for pair in (_ITEM_VIEWS, _USER_VIEWS):
            view = pair[place]
            numbers = [number for number, record in enumerate(records) if _views(record) is pair]
            keys = [_key(view, records[number].entity_id) for number in numbers]
            with self._faults_named():
                versions = self.online.read_versions(self.config, view, keys) if keys else []
            for number, version in zip(numbers, versions, strict=True):
                found[number] = version
        return found

    def is_complete(self) -> bool:
        """Whether the store holds everything that the topics of feature records do: not when it is new, or was emptied."""
        with self._faults_named():
            return self.online.is_complete(self.config)

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Fill the store within this; then it is whole. Raises StoreUnavailable where it was emptied meanwhile."""
        with self._faults_named():
            self.online.begin_rebuild(self.config)
        yield
        with self._faults_named():
            self.online.end_rebuild(self.config)

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except _STORE_FAULTS as error:
            where = f"{self.settings.store.profile} online store of {self.settings.state_dir}"
            raise StoreUnavailable(f"the {where} failed: {error}") from error

    def _check_complete(self) -> None:
        # Asked after a read: what was read before the store was emptied is good.
        if self._require_complete and not self.is_complete():
            raise StoreUnavailable("the online store is not whole, new or emptied: run `reaseq features rebuild`")

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        """The records of the items that the store knows."""
        found = self._read(_ITEM_VIEWS, item_ids)
        return {item_id: item_record(item_id, time_ms, *values) for item_id, (time_ms, values) in found.items()}

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        """The records of the users that the store knows."""
        found = self._read(_USER_VIEWS, user_ids)
        return {user_id: user_record(user_id, time_ms, *values) for user_id, (time_ms, values) in found.items()}

    def scan_ids(self, view: FeatureView) -> Iterator[str]:
        """The ids of every entity that has a row in the view."""
        with self._faults_named():
            for key, _ in self.online.scan(self.config, view):
                yield parse_entity_id(key)

    def scan_items(self) -> Iterator[list[ItemFeatures]]:
        """Every item's record, also of those no longer on sale, page by page."""
        ids = self.scan_ids(views.item_representation)
        while page := list(islice(ids, SCAN_PAGE_ITEMS)):
            yield list(self.read_items(page).values())

    def _read(self, pair: tuple[FeatureView, FeatureView], ids: Sequence[str]) -> dict[str, tuple[int, list[dict[str, Any]]]]:
        keys = [_key(pair[0], entity_id) for entity_id in ids]
        with self._faults_named():
            packed = self.online.get_all(self.config, [(view, keys) for view in pair])
        self._check_complete()
        columns = [unpacked(view, rows) for view, rows in zip(pair, packed, strict=True)]
        found = {}
        for entity_id, parts in zip(ids, zip(*columns, strict=True), strict=True):
            if all(values is not None for _, values in parts):
                time_ms = (parts[0][0] - _EPOCH) // timedelta(milliseconds=1)
                found[entity_id] = (time_ms, [_plain(values) for _, values in parts])
        return found

    def _placed(self, record: FeatureRecord) -> list[PlacedRow]:
        key = _key(_views(record)[0], record.entity_id)
        return [PlacedRow(row.view, key, _packed(row)) for row in to_rows(record, self.vocabulary)]

    def _compare(self, record: FeatureRecord, held: Sequence[RowVersion | None]) -> ReconcileResult:
        if any(row is None or row.of_record < record.version for row in held):
            return "behind"
        if any(row and row.of_record > record.version for row in held):
            return "ahead"
        written = [read_version(_packed(row)) for row in to_rows(record, self.vocabulary)]
        return "equal" if list(held) == written else "different"


def _key(view: FeatureView, entity_id: str) -> bytes:
    return _serialized_key(views.join_key(view), entity_id)


@lru_cache(maxsize=KEYS_REMEMBERED)
def _serialized_key(join_key: str, entity_id: str) -> bytes:
    key: bytes = serialize_entity_key(entity_key(join_key, entity_id), KEY_VERSION)
    return key


def _views(record: FeatureRecord) -> tuple[FeatureView, FeatureView]:
    return _ITEM_VIEWS if isinstance(record, ItemFeatures) else _USER_VIEWS


def _packed(row: Row) -> bytes:
    values = {name: _to_value(value) for name, value in row.values.items()}
    return pack(values, _EPOCH + timedelta(milliseconds=row.event_time_ms))


def _to_value(value: str | int | float | bytes) -> Value:
    match value:
        case str():
            return Value(string_val=value)
        case bytes():
            return Value(bytes_val=value)
        case int():
            return Value(int64_val=value)
        case float():
            return Value(double_val=value)


def _plain(values: Mapping[str, Value]) -> dict[str, Any]:
    return {name: getattr(value, kind) for name, value in values.items() if (kind := value.WhichOneof("val"))}
