"""The packed online store on Redis (production profile): one string per row, compare-and-set of a record in Lua."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import redis
from feast import Entity, FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.packed_store import KeyedRow, PackedOnlineStore
from features.row_format import VERSION_BYTES, RowVersion, read_version

SCAN_PAGE_KEYS = 1000
WRITE_CHUNK_RECORDS = 64  # Redis blocks while a script runs: about a third of a millisecond
WAIT_SHARE = 0.8  # of the timeout, so that WAIT answers before the socket times out
COMPARE_AND_SET = Path(__file__).with_name("compare_and_set.lua").read_text()
READ_VERSIONS = f"""
local versions = {{}}
for index, key in ipairs(KEYS) do versions[index] = redis.call('GETRANGE', key, 0, {VERSION_BYTES - 1}) end
return versions
"""


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The `online_store` section of `feature_store.production.yaml`."""

    type: Literal["features.redis_store.PackedRedisOnlineStore"] = "features.redis_store.PackedRedisOnlineStore"
    url: SecretStr
    timeout_s: float = 2.0  # for a connection and for each command
    replicas: int = 0  # replicas that must confirm a write


class PackedRedisOnlineStore(PackedOnlineStore):
    """One key per row. Scripts and reads span many keys, so the store needs a single Redis, not a Redis Cluster."""

    def __init__(self) -> None:
        self._client: redis.Redis | None = None

    def compare_and_set(self, config: RepoConfig, records: Sequence[Sequence[KeyedRow]]) -> list[bool]:
        client, settings = self._connect(config), config.online_store
        script = client.register_script(COMPARE_AND_SET)
        with client.pipeline(transaction=False) as pipe:
            for start in range(0, len(records), WRITE_CHUNK_RECORDS):
                chunk = [keyed for record in records[start : start + WRITE_CHUNK_RECORDS] for keyed in record]
                keys = [_row_key(config, keyed.table, keyed.key) for keyed in chunk]
                script(keys=keys, args=[*(keyed.row for keyed in chunk), len(records[0])], client=pipe)
            if settings.replicas:
                # WAIT covers only writes of this connection. A retry after a failure may write nothing, because the rows are
                # equal; the barrier key makes sure that there is a write to wait for.
                pipe.set(_system_key(config, "barrier"), b"")
                pipe.wait(settings.replicas, round(settings.timeout_s * 1000 * WAIT_SHARE))
            results = pipe.execute()
        if settings.replicas:
            *results, _, confirmed = results
            if confirmed < settings.replicas:
                raise redis.TimeoutError(f"{confirmed} of {settings.replicas} replicas confirmed the write")
        return [stale == 1 for chunk_result in results for stale in chunk_result]

    def get(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.get_all(config, [(table, keys)])[0]

    def read_versions(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[RowVersion | None]:
        script = self._connect(config).register_script(READ_VERSIONS)
        versions: Any = script(keys=[_row_key(config, table, key) for key in keys]) if keys else []
        return [read_version(version) if version else None for version in versions]

    def get_all(self, config: RepoConfig, requests: Sequence[tuple[FeatureView, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """Read the rows of all requests in one MGET."""
        keys = [_row_key(config, table, key) for table, table_keys in requests for key in table_keys]
        found = iter(self._connect(config).mget(keys) if keys else ())  # type: ignore[arg-type]
        return [[next(found) for _ in table_keys] for _, table_keys in requests]

    def scan(self, config: RepoConfig, table: FeatureView) -> Iterator[tuple[bytes, bytes]]:
        prefix = _prefix(config, table)
        client = self._connect(config)
        cursor = 0
        while True:
            cursor, page = client.scan(cursor, match=_escape_glob(prefix) + b"*", count=SCAN_PAGE_KEYS)  # type: ignore[misc]
            if page:
                found: list[bytes | None] = client.mget(page)  # type: ignore[assignment]
                keys = [key[len(prefix) :] for key in page]
                yield from ((key, row) for key, row in zip(keys, found, strict=True) if row)
            if not cursor:
                return

    def is_complete(self, config: RepoConfig) -> bool:
        """Whether the completeness marker is set. A new or emptied Redis lacks it."""
        return bool(self._connect(config).exists(_system_key(config, "whole")))

    def begin_rebuild(self, config: RepoConfig) -> None:
        """Set the marker of a rebuild in progress. It is lost if Redis is emptied."""
        self._connect(config).set(_system_key(config, "rebuilding"), b"")

    def end_rebuild(self, config: RepoConfig) -> None:
        """Rename the rebuild marker to the completeness marker. Fails if Redis was emptied since `begin_rebuild`."""
        self._connect(config).rename(_system_key(config, "rebuilding"), _system_key(config, "whole"))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Delete the rows of `tables_to_delete`. Redis needs no tables to be created."""
        for table in tables_to_delete:
            keys = [_row_key(config, table, key) for key, _ in self.scan(config, table)]
            for start in range(0, len(keys), SCAN_PAGE_KEYS):
                self._connect(config).unlink(*keys[start : start + SCAN_PAGE_KEYS])

    def _connect(self, config: RepoConfig) -> redis.Redis:
        if self._client is None:
            settings = config.online_store
            self._client = redis.Redis.from_url(
                settings.url.get_secret_value(),
                socket_timeout=settings.timeout_s,
                socket_connect_timeout=settings.timeout_s,
                # Retry once, without waiting, if a pooled connection has been closed. Do not retry a timeout: that would take
                # twice as long as the caller allows. Callers that can wait longer retry themselves.
                retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
            )
        return self._client


def _row_key(config: RepoConfig, table: FeatureView, entity_key: bytes) -> bytes:
    return _prefix(config, table) + entity_key


def _prefix(config: RepoConfig, table: FeatureView) -> bytes:
    return f"{config.project}:{table.name}:".encode()


def _system_key(config: RepoConfig, name: str) -> bytes:
    """A key that belongs to no view."""
    return f"{config.project}::{name}".encode()


def _escape_glob(literal: bytes) -> bytes:
    return b"".join(b"\\" + bytes([char]) if char in b"*?[]\\^" else bytes([char]) for char in literal)
