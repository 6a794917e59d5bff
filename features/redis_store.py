"""The production flavour of the packed online store: Redis, one string a row, compare-and-set of a record in Lua."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import redis
from feast import Entity, FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.packed_store import PackedOnlineStore, PlacedRow
from features.row_format import VERSION_BYTES, RowVersion, read_version

SCAN_PAGE_KEYS = 1000
PUT_CHUNK_RECORDS = 64  # Redis does nothing else while a script runs: about a third of a millisecond
WAIT_SHARE = 0.8  # of the timeout, for the answer to come before it
NEWEST_WINS = Path(__file__).with_name("newest_wins.lua").read_text()
READ_VERSIONS = f"""
local heads = {{}}
for place, key in ipairs(KEYS) do heads[place] = redis.call('GETRANGE', key, 0, {VERSION_BYTES - 1}) end
return heads
"""


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Configuration in `feature_store.yaml`."""

    type: Literal["features.redis_store.PackedRedisOnlineStore"] = "features.redis_store.PackedRedisOnlineStore"
    url: SecretStr
    timeout_s: float = 2.0
    replicas: int = 0


class PackedRedisOnlineStore(PackedOnlineStore):
    """Each row is one key. Scripts and reads take many keys at once, of one Redis: a cluster would have to be told apart."""

    def __init__(self) -> None:
        self._client: redis.Redis | None = None

    def put(self, config: RepoConfig, records: Sequence[Sequence[PlacedRow]]) -> list[bool]:
        client, settings = self._connect(config), config.online_store
        script = client.register_script(NEWEST_WINS)
        with client.pipeline(transaction=False) as pipe:
            for start in range(0, len(records), PUT_CHUNK_RECORDS):
                chunk = [placed for record in records[start : start + PUT_CHUNK_RECORDS] for placed in record]
                keys = [_key(config, placed.table, placed.key) for placed in chunk]
                script(keys=keys, args=[*(placed.row for placed in chunk), len(records[0])], client=pipe)
            if settings.replicas:
                # Redis waits for what this connection wrote: written again after a failure, the rows are equal and nothing is.
                pipe.set(_mark(config, "barrier"), b"")
                pipe.wait(settings.replicas, round(settings.timeout_s * 1000 * WAIT_SHARE))
            results = pipe.execute()
        if settings.replicas:
            *results, _, confirmed = results
            if confirmed < settings.replicas:
                raise redis.TimeoutError(f"{confirmed} of {settings.replicas} replicas confirmed the write")
        return [stale == 1 for of_chunk in results for stale in of_chunk]

    def get(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.get_all(config, [(table, keys)])[0]

    def read_versions(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[RowVersion | None]:
        script = self._connect(config).register_script(READ_VERSIONS)
        heads: Any = script(keys=[_key(config, table, key) for key in keys]) if keys else []
        return [read_version(head) if head else None for head in heads]

    def get_all(self, config: RepoConfig, asked: Sequence[tuple[FeatureView, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """All of them in one command."""
        keys = [_key(config, table, key) for table, of_table in asked for key in of_table]
        found = iter(self._connect(config).mget(keys) if keys else ())  # type: ignore[arg-type]
        return [[next(found) for _ in of_table] for _, of_table in asked]

    def scan(self, config: RepoConfig, table: FeatureView) -> Iterator[tuple[bytes, bytes]]:
        prefix = _prefix(config, table)
        client = self._connect(config)
        cursor = 0
        while True:
            cursor, page = client.scan(cursor, match=_glob(prefix) + b"*", count=SCAN_PAGE_KEYS)  # type: ignore[misc]
            if page:
                found: list[bytes | None] = client.mget(page)  # type: ignore[assignment]
                keys = [key[len(prefix) :] for key in page]
                yield from ((key, row) for key, row in zip(keys, found, strict=True) if row)
            if not cursor:
                return

    def is_complete(self, config: RepoConfig) -> bool:
        return bool(self._connect(config).exists(_mark(config, "whole")))

    def begin_rebuild(self, config: RepoConfig) -> None:
        self._connect(config).set(_mark(config, "rebuilding"), b"")

    def end_rebuild(self, config: RepoConfig) -> None:
        self._connect(config).rename(_mark(config, "rebuilding"), _mark(config, "whole"))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Delete the rows of the views to delete; Redis needs no tables."""
        for table in tables_to_delete:
            keys = [_key(config, table, key) for key, _ in self.scan(config, table)]
            for start in range(0, len(keys), SCAN_PAGE_KEYS):
                self._connect(config).unlink(*keys[start : start + SCAN_PAGE_KEYS])

    def _connect(self, config: RepoConfig) -> redis.Redis:
        if self._client is None:
            settings = config.online_store
            self._client = redis.Redis.from_url(
                settings.url.get_secret_value(),
                socket_timeout=settings.timeout_s,
                socket_connect_timeout=settings.timeout_s,
                # Once more at once, for a connection that had gone stale; not after a timeout, which would take twice as long
                # as the caller allowed. Whoever can wait longer retries by himself.
                retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
            )
        return self._client


def _key(config: RepoConfig, table: FeatureView, entity_key: bytes) -> bytes:
    return _prefix(config, table) + entity_key


def _prefix(config: RepoConfig, table: FeatureView) -> bytes:
    return f"{config.project}:{table.name}:".encode()


def _mark(config: RepoConfig, name: str) -> bytes:
    return f"{config.project}::{name}".encode()


def _glob(literal: bytes) -> bytes:
    return b"".join(b"\\" + bytes([char]) if char in b"*?[]\\^" else bytes([char]) for char in literal)
