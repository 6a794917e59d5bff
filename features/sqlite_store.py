"""The embedded flavour of the packed online store: SQLite, nothing to start, several processes may write."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from feast import Entity, FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from features import row_format as rows
from features.packed_store import PackedOnlineStore, PlacedRow

BUSY_TIMEOUT_S = 30.0
_NOTHING = rows.RowVersion(-1, -1, -1)
READ_CHUNK_KEYS = 500  # SQLite's oldest limit on bound parameters is 999


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Configuration in `feature_store.yaml`."""

    type: Literal["features.sqlite_store.PackedSqliteOnlineStore"] = "features.sqlite_store.PackedSqliteOnlineStore"
    path: str


class PackedSqliteOnlineStore(PackedOnlineStore):
    """One table a view in WAL mode; a transaction is the compare-and-set."""

    def __init__(self) -> None:
        self._local = threading.local()

    def put(self, config: RepoConfig, records: Sequence[Sequence[PlacedRow]]) -> list[bool]:
        connection = self._connection(config)
        with connection:
            connection.execute("begin immediate")
            held = self._held(config, records)
            kept_out, landing = [], dict[str, dict[bytes, bytes]]()
            for record in records:
                there = [held.get((placed.table.name, placed.key), _NOTHING) for placed in record]
                new = [rows.read_version(placed.row) for placed in record]
                kept_out.append(there > new)
                if new > there:
                    for placed in record:
                        landing.setdefault(_table(config, placed.table), {})[placed.key] = placed.row
                        held[placed.table.name, placed.key] = rows.read_version(placed.row)
            for table, landed in landing.items():
                values = [(key, *rows.read_version(row), row) for key, row in landed.items()]
                connection.executemany(f"insert or replace into {table} values (?, ?, ?, ?, ?)", values)  # noqa: S608
        return kept_out

    def _held(self, config: RepoConfig, records: Sequence[Sequence[PlacedRow]]) -> dict[tuple[str, bytes], rows.RowVersion]:
        """The read_versions of what is there of the records' entities, by view and key."""
        found = {}
        tables = {placed.table.name: placed.table for record in records for placed in record}
        for name, table in tables.items():
            keys = [placed.key for record in records for placed in record if placed.table.name == name]
            for key, order in zip(keys, self.read_versions(config, table, keys), strict=True):
                if order:
                    found[name, key] = order
        return found

    def read_versions(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[rows.RowVersion | None]:
        found = self._select("event_us, revision, digest", config, table, keys)
        return [rows.RowVersion(*found[key]) if key in found else None for key in keys]

    def get(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        found = self._select("row", config, table, keys)
        return [found[key][0] if key in found else None for key in keys]

    def get_all(self, config: RepoConfig, asked: Sequence[tuple[FeatureView, Sequence[bytes]]]) -> list[list[bytes | None]]:
        with (connection := self._connection(config)):
            connection.execute("begin")  # so that all reads see one state
            return [self.get(config, table, keys) for table, keys in asked]

    def scan(self, config: RepoConfig, table: FeatureView) -> Iterator[tuple[bytes, bytes]]:
        yield from self._connection(config).execute(f"select entity_key, row from {_table(config, table)}")  # noqa: S608

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create the tables to keep and drop the ones to delete (`feast apply`)."""
        connection = self._connection(config)
        with connection:
            for table in tables_to_keep:
                connection.execute(
                    f"create table if not exists {_table(config, table)} (entity_key blob primary key, event_us integer "
                    "not null, revision integer not null, digest integer not null, row blob not null) without rowid"
                )
            for table in tables_to_delete:
                connection.execute(f"drop table if exists {_table(config, table)}")

    def _select(
        self, columns: str, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]
    ) -> dict[bytes, tuple[Any, ...]]:
        found: dict[bytes, tuple[Any, ...]] = {}
        for start in range(0, len(keys), READ_CHUNK_KEYS):
            chunk = keys[start : start + READ_CHUNK_KEYS]
            marks = ",".join("?" * len(chunk))
            query = f"select entity_key, {columns} from {_table(config, table)} where entity_key in ({marks})"  # noqa: S608
            found.update((key, values) for key, *values in self._connection(config).execute(query, chunk))
        return found

    def _connection(self, config: RepoConfig) -> sqlite3.Connection:
        # A connection belongs to one thread; opening it costs a millisecond once.
        if not hasattr(self._local, "connection"):
            path = Path(config.online_store.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            self._local.connection = connection
        return self._local.connection  # type: ignore[no-any-return]


def _table(config: RepoConfig, table: FeatureView) -> str:
    name = f"{config.project}_{table.name}".replace('"', '""')
    return f'"{name}"'
