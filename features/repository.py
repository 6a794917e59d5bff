"""Typed reads and writes of feature records through Feast: the only door between records and the store."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

import redis
import yaml
from feast import FeatureStore, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig

from features import definitions as views
from features.packed_store import KEY_VERSION, PackedOnlineStore, entity_id_of, entity_key, unpacked
from features.row import order_of
from features.rows import Row, item_record, rows_by_view, user_record
from reaseq.errors import StoreUnavailable
from reaseq.records import ItemFeatures, UserFeatures
from reaseq.settings import Settings

# Importing Feast points prometheus_client to a folder of Feast's, which child processes would inherit and find gone.
for _name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR"):
    if "feast_metrics_" in os.environ.get(_name, ""):
        del os.environ[_name]

FOLDER = Path(__file__).parent
SCAN_PAGE_ITEMS = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PROFILES = {"embedded": "feature_store.yaml", "production": "feature_store.production.yaml"}
# A record's views are written in this order and read back together: the last one written is the one to look for.
_ITEM_VIEWS = (views.item_representation, views.item_knowledge)
_USER_VIEWS = (views.user_history, views.user_inferred)


# SQLite says "operational" of a locked or full database; Redis drops, refuses or times out, and says so when out of memory.
_STORE_FAULTS = (sqlite3.OperationalError, redis.RedisError, OSError)


def feast_variables(settings: Settings) -> dict[str, str]:
    """What the profiles' YAML leaves open."""
    state = settings.state_dir.resolve()
    return {
        "REASEQ_REGISTRY": str(state / "registry.db"),
        "REASEQ_ONLINE_DB": str(state / "online.db"),
        "REASEQ_REDIS_URL": settings.store.redis_url.get_secret_value(),
        "REASEQ_REDIS_TIMEOUT_S": str(settings.store.redis_timeout_s),
    }


def profile_file(settings: Settings) -> Path:
    """The `feature_store.yaml` of the profile in force."""
    return FOLDER / _PROFILES[settings.store.profile]


class FeatureRepository:
    """Feature records in and out of the online store, in whichever profile the settings name."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        text = Template(profile_file(settings).read_text()).substitute(feast_variables(settings))
        self.feast = FeatureStore(config=RepoConfig(**yaml.safe_load(text), repo_path=FOLDER))
        self.config: RepoConfig = self.feast.config
        self.online: PackedOnlineStore = self.feast._get_provider().online_store

    def apply(self) -> None:
        """Register entities, views and services with Feast, and create what the online store needs."""
        self.feast.apply([views.item, views.user, *views.VIEWS, views.ranking])

    def write(self, records: Sequence[ItemFeatures | UserFeatures]) -> None:
        """Make records servable. Older records than those in the store change nothing.

        Raises StoreUnavailable, after which some of the records may be servable: write them again.
        """
        with _faults_named():
            for rows in rows_by_view(records).values():
                self.online.online_write_batch(self.config, rows[0].view, [_to_feast(row) for row in rows], None)

    def not_overtaken(self, records: Sequence[ItemFeatures | UserFeatures]) -> list[ItemFeatures | UserFeatures]:
        """Those of the records that are not older than what the store holds of the same entity, in their order."""
        held: dict[tuple[type, str], tuple[int, int]] = {}
        for kind, view in ((ItemFeatures, views.item_representation), (UserFeatures, views.user_history)):
            ids = [_id_of(record) for record in records if isinstance(record, kind)]
            keys = [serialize_entity_key(entity_key(views.join_key(view), entity_id), KEY_VERSION) for entity_id in ids]
            with _faults_named():
                rows = self.online.get(self.config, view, keys) if keys else []
            held |= {(kind, entity_id): order_of(row)[:2] for entity_id, row in zip(ids, rows, strict=True) if row}
        nothing = (-1, -1)
        return [
            record
            for record in records
            if (record.event_time_ms * 1000, record.revision) >= held.get((type(record), _id_of(record)), nothing)
        ]

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        """The records of the items that the store knows."""
        found = self._read(_ITEM_VIEWS, views.ITEM_KEY, item_ids)
        return {item_id: item_record(item_id, time_ms, *values) for item_id, (time_ms, values) in found.items()}

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        """The records of the users that the store knows."""
        found = self._read(_USER_VIEWS, views.USER_KEY, user_ids)
        return {user_id: user_record(user_id, time_ms, *values) for user_id, (time_ms, values) in found.items()}

    def scan_ids(self, view: FeatureView) -> Iterator[str]:
        """The ids of every entity that has a row in the view."""
        with _faults_named():
            for key, _ in self.online.scan(self.config, view):
                yield entity_id_of(key)

    def scan_items(self) -> Iterator[list[ItemFeatures]]:
        """Every item's record, also of those no longer on sale, page by page."""
        ids = self.scan_ids(views.item_representation)
        while page := list(islice(ids, SCAN_PAGE_ITEMS)):
            yield list(self.read_items(page).values())

    def _read(
        self, pair: tuple[FeatureView, FeatureView], join_key: str, ids: Sequence[str]
    ) -> dict[str, tuple[int, list[dict[str, Any]]]]:
        keys = [serialize_entity_key(entity_key(join_key, entity_id), KEY_VERSION) for entity_id in ids]
        with _faults_named():
            packed = self.online.get_all(self.config, [(view, keys) for view in pair])
        columns = [unpacked(view, rows) for view, rows in zip(pair, packed, strict=True)]
        found = {}
        for entity_id, parts in zip(ids, zip(*columns, strict=True), strict=True):
            # A reader may come between the writes of a record's views: what is half there is not there yet.
            if all(values is not None for _, values in parts):
                time_ms = (parts[0][0] - _EPOCH) // timedelta(milliseconds=1)
                found[entity_id] = (time_ms, [_plain(values) for _, values in parts])
        return found


@contextmanager
def _faults_named() -> Iterator[None]:
    try:
        yield
    except _STORE_FAULTS as error:
        raise StoreUnavailable(f"the online store failed: {error}") from error


def _id_of(record: ItemFeatures | UserFeatures) -> str:
    return record.item_id if isinstance(record, ItemFeatures) else record.user_id


def _to_feast(row: Row) -> tuple[Any, dict[str, Value], datetime, None]:
    values = {name: _to_value(value) for name, value in row.values.items()}
    event_time = _EPOCH + timedelta(milliseconds=row.event_time_ms)
    return entity_key(views.join_key(row.view), row.entity_id), values, event_time, None


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
