"""The packed online store on Redis (production profile): one string per row, compare-and-set of a record in Lua."""

import re
from collections.abc import Iterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import redis
from feast import Entity, FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.packed_store import NEWER_ROW, NO_EVICTION, Eviction, KeyedRow, PackedOnlineStore, row_owner
from features.row_format import VERSION_BYTES, RowVersion, read_version
from reaseq.errors import NewerRowFormat, StoreEvicts

SCAN_PAGE_KEYS = 1000
WRITE_CHUNK_RECORDS = 64  # Redis blocks while a script runs: about a third of a millisecond
WAIT_SHARE = 0.8  # of the timeout, so that WAIT answers before the socket times out
COMPARE_AND_SET = Path(__file__).with_name("compare_and_set.lua").read_text()
COMPARE_AND_SET_SHA = sha1(COMPARE_AND_SET.encode(), usedforsecurity=False).hexdigest()  # Redis's name of the script
STALE, NEWER_FORMAT = 1, 2  # what the script returns for a record
# The scripts take a key of another type than a string for a missing one, as MGET does: otherwise it would stop every batch.
READ_VERSIONS = f"""
local versions = {{}}
for index, key in ipairs(KEYS) do
  local version = redis.pcall('GETRANGE', key, 0, {VERSION_BYTES - 1})
  versions[index] = type(version) == 'string' and version or ''
end
return versions
"""
# A stage calls this after every read, so it must be cheap: the client would take a millisecond to parse all of INFO.
READ_STATE = """
local function field(section, name) return string.match(redis.call('INFO', section), name .. ':([^\\r\\n]*)') end
local server = {field('server', 'run_id'), field('memory', 'maxmemory_policy'), field('stats', 'evicted_keys')}
local marker = redis.pcall('GET', KEYS[1])
return {type(marker) == 'string' and marker, server}
"""
DELETE_IF_EQUAL = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
REPLACE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end"
MARKER = re.compile(rb"([0-9a-f]{40}) ([0-9]+)")  # the server's run id, and its count of evicted keys
RENAME_IF_EXISTS = "return redis.call('EXISTS', KEYS[1]) == 1 and redis.call('RENAME', KEYS[1], KEYS[2])"


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
        try:
            outcomes = self._compare_and_set(config, records)
        except redis.exceptions.NoScriptError:  # a new Redis, or one that has restarted
            self._connect(config).script_load(COMPARE_AND_SET)
            outcomes = self._compare_and_set(config, records)
        if NEWER_FORMAT in outcomes:
            raise NewerRowFormat(NEWER_ROW)
        return [outcome == STALE for outcome in outcomes]

    def _compare_and_set(self, config: RepoConfig, records: Sequence[Sequence[KeyedRow]]) -> list[int]:
        """What the script returns for each record. Raises NoScriptError if Redis does not know the script.

        The script is called by its digest alone: to ask Redis first whether it knows it would take a second round trip.
        """
        client, settings = self._connect(config), config.online_store
        with client.pipeline(transaction=False) as pipe:
            for start in range(0, len(records), WRITE_CHUNK_RECORDS):
                chunk = [keyed for record in records[start : start + WRITE_CHUNK_RECORDS] for keyed in record]
                keys = [_row_key(config, keyed.table, keyed.key) for keyed in chunk]
                pipe.evalsha(COMPARE_AND_SET_SHA, len(keys), *keys, *(keyed.row for keyed in chunk), len(records[0]))
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
        return [outcome for chunk_outcomes in results for outcome in chunk_outcomes]

    def replace(self, config: RepoConfig, replacements: Sequence[tuple[KeyedRow, bytes]]) -> None:
        script = self._connect(config).register_script(REPLACE)
        for keyed, stored in replacements:
            script(keys=[_row_key(config, keyed.table, keyed.key)], args=[stored, keyed.row])

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
            cursor, page = client.scan(cursor, match=prefix + b"*", count=SCAN_PAGE_KEYS)  # type: ignore[misc]
            if page:
                found: list[bytes | None] = client.mget(page)  # type: ignore[assignment]
                keys = [key[len(prefix) :] for key in page]
                yield from ((key, row) for key, row in zip(keys, found, strict=True) if row)
            if not cursor:
                return

    def read_eviction(self, config: RepoConfig) -> Eviction:
        return self._read_state(config)[1].eviction

    def is_complete(self, config: RepoConfig) -> bool:
        """Whether the completeness marker is set and valid. A new or emptied Redis lacks it.

        The marker holds the state of the server when its rebuild began. It is invalid, and is deleted, if keys were evicted
        since, or if it holds anything else. Raises StoreEvicts if Redis may evict keys.
        """
        marker, server = self._read_state(config)
        _require_no_eviction(server.eviction)
        if marker is not None and not server.holds_since(marker):
            # The counter of evicted keys does not survive a restart of Redis, so the marker must not either.
            self._connect(config).register_script(DELETE_IF_EQUAL)(keys=[_system_key(config, "whole")], args=[marker])
            return False
        return marker is not None

    def begin_rebuild(self, config: RepoConfig) -> str:
        """Set a marker of this rebuild, of which there may be several at once. It is lost if Redis is emptied."""
        (_, server), token = self._read_state(config), uuid4().hex
        _require_no_eviction(server.eviction)
        self._connect(config).set(_rebuild_key(config, token), server.to_marker())
        return token

    def end_rebuild(self, config: RepoConfig, token: str) -> bool:
        """Rename the marker of this rebuild, which is missing if Redis was emptied since `begin_rebuild`."""
        keys = [_rebuild_key(config, token), _system_key(config, "whole")]
        renamed = self._connect(config).register_script(RENAME_IF_EXISTS)(keys=keys)
        return bool(renamed) and self.is_complete(config)

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

    def _read_state(self, config: RepoConfig) -> tuple[bytes | None, "_Server"]:
        """The completeness marker, and the server, at one moment and in one round trip."""
        marker, server = self._connect(config).register_script(READ_STATE)(keys=[_system_key(config, "whole")])
        run_id, policy, evicted_keys = server
        return marker, _Server(run_id.decode(), Eviction(policy.decode(), int(evicted_keys)))

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


class _Server(NamedTuple):
    """A run of a Redis server, and what it has evicted so far."""

    run_id: str
    eviction: Eviction

    def to_marker(self) -> bytes:
        """The content of a marker that is set now."""
        return f"{self.run_id} {self.eviction.evicted_keys}".encode()

    def holds_since(self, marker: bytes) -> bool:
        """Whether this server has evicted nothing since the marker was set. A server counts from its own start."""
        if not (match := MARKER.fullmatch(marker)):
            return False
        run_id, evicted_keys = match[1].decode(), int(match[2])
        return self.eviction.evicted_keys == (evicted_keys if run_id == self.run_id else 0)


def _require_no_eviction(eviction: Eviction) -> None:
    if eviction.policy != NO_EVICTION:
        raise StoreEvicts(f"Redis would evict rows when its memory is full: set maxmemory-policy to {NO_EVICTION}")


def _row_key(config: RepoConfig, table: FeatureView, entity_key: bytes) -> bytes:
    return f"{config.project}:".encode() + row_owner(table, entity_key)


def _prefix(config: RepoConfig, table: FeatureView) -> bytes:
    return _row_key(config, table, b"")


def _system_key(config: RepoConfig, name: str) -> bytes:
    """A key that belongs to no view."""
    return f"{config.project}::{name}".encode()


def _rebuild_key(config: RepoConfig, token: str) -> bytes:
    return _system_key(config, f"rebuilding-{token}")
