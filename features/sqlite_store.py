"""The packed online store on SQLite (embedded profile): no service to start; several processes may write."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from feast import Entity, FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from features.packed_store import NEWER_ROW, KeyedRow, PackedOnlineStore
from features.row_format import RowVersion, read_version
from reaseq.errors import NewerRowFormat

BUSY_TIMEOUT_S = 30.0
READ_CHUNK_KEYS = 500  # SQLite's oldest limit on bound parameters is 999
_MISSING = RowVersion(-1, -1, -1)  # less than any stored version


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The `online_store` section of `feature_store.yaml`."""

    type: Literal["features.sqlite_store.PackedSqliteOnlineStore"] = "features.sqlite_store.PackedSqliteOnlineStore"
    path: str  # of the database file


class PackedSqliteOnlineStore(PackedOnlineStore):
    """One table per view in WAL mode. A compare-and-set is one transaction."""

    def __init__(self) -> None:
        self._local = threading.local()

    def compare_and_set(self, config: RepoConfig, records: Sequence[Sequence[KeyedRow]]) -> list[bool]:
        connection = self._connection(config)
        with connection:
            connection.execute("begin immediate")
            versions = self._stored_versions(config, records)
            stale, writes = [], dict[str, dict[bytes, bytes]]()
            for record in records:
                stored = [versions.get((keyed.table.name, keyed.key), _MISSING) for keyed in record]
                new = [read_version(keyed.row) for keyed in record]
                stale.append(stored > new)
                if new > stored:
                    if any(old.format > row.format for old, row in zip(stored, new, strict=True)):
                        raise NewerRowFormat(NEWER_ROW)
                    for keyed in record:
                        writes.setdefault(_table_name(config, keyed.table), {})[keyed.key] = keyed.row
                        versions[keyed.table.name, keyed.key] = read_version(keyed.row)
            for table, rows in writes.items():
                values = [(key, *read_version(row), row) for key, row in rows.items()]
                connection.executemany(f"insert or replace into {table} values (?, ?, ?, ?, ?)", values)  # noqa: S608
        return stale

    def _stored_versions(
        self, config: RepoConfig, records: Sequence[Sequence[KeyedRow]]
    ) -> dict[tuple[str, bytes], RowVersion]:
        """The stored versions of the records' rows, by view and key."""
        found = {}
        tables = {keyed.table.name: keyed.table for record in records for keyed in record}
        for name, table in tables.items():
            keys = [keyed.key for record in records for keyed in record if keyed.table.name == name]
            for key, version in zip(keys, self.read_versions(config, table, keys), strict=True):
                if version:
                    found[name, key] = version
        return found

    def read_versions(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[RowVersion | None]:
        found = self._select("event_us, revision, digest", config, table, keys)
        return [RowVersion(*found[key]) if key in found else None for key in keys]

    def replace(self, config: RepoConfig, replacements: Sequence[tuple[KeyedRow, bytes]]) -> None:
        with (connection := self._connection(config)):
            for keyed, stored in replacements:
                connection.execute(
                    f"update {_table_name(config, keyed.table)} set event_us = ?, revision = ?, digest = ?, row = ? "  # noqa: S608
                    "where entity_key = ? and row = ?",
                    (*read_version(keyed.row), keyed.row, keyed.key, stored),
                )

    def get(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        found = self._select("row", config, table, keys)
        return [found[key][0] if key in found else None for key in keys]

    def get_all(self, config: RepoConfig, requests: Sequence[tuple[FeatureView, Sequence[bytes]]]) -> list[list[bytes | None]]:
        with (connection := self._connection(config)):
            connection.execute("begin")  # so that all reads see one state
            return [self.get(config, table, keys) for table, keys in requests]

    def scan(self, config: RepoConfig, table: FeatureView) -> Iterator[tuple[bytes, bytes]]:
        yield from self._connection(config).execute(f"select entity_key, row from {_table_name(config, table)}")  # noqa: S608

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create `tables_to_keep` and drop `tables_to_delete` (`feast apply`)."""
        connection = self._connection(config)
        with connection:
            for table in tables_to_keep:
                connection.execute(
                    f"create table if not exists {_table_name(config, table)} (entity_key blob primary key, event_us integer "
                    "not null, revision integer not null, digest integer not null, row blob not null) without rowid"
                )
            for table in tables_to_delete:
                connection.execute(f"drop table if exists {_table_name(config, table)}")

    def _select(
        self, columns: str, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]
    ) -> dict[bytes, tuple[Any, ...]]:
        found: dict[bytes, tuple[Any, ...]] = {}
        for start in range(0, len(keys), READ_CHUNK_KEYS):
            chunk = keys[start : start + READ_CHUNK_KEYS]
            parameters = ",".join("?" * len(chunk))
            query = f"select entity_key, {columns} from {_table_name(config, table)} where entity_key in ({parameters})"  # noqa: S608
            found.update((key, values) for key, *values in self._connection(config).execute(query, chunk))
        return found

    def _connection(self, config: RepoConfig) -> sqlite3.Connection:
        # SQLite connections are bound to a thread; opening one costs a millisecond, once per thread.
        if not hasattr(self._local, "connection"):
            path = Path(config.online_store.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            self._local.connection = connection
        return self._local.connection  # type: ignore[no-any-return]


def _table_name(config: RepoConfig, table: FeatureView) -> str:
    name = f"{config.project}_{table.name}".replace('"', '""')
    return f'"{name}"'
