"""One Redis of the online store: one string per row, compare-and-set of a record in Lua, and what makes the Redis trustworthy.

Beside the rows, which are under `<project>:`, it holds under `<project>::` a completeness marker, the map entry of a shard (see
`features.sharding`), the markers of rebuilds and the barrier of replication.
"""

import re
from collections.abc import Iterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.packed_store import NEWER_ROW, NO_EVICTION, Eviction, KeyedRow, row_owner
from features.row_format import VERSION_BYTES, RowVersion, read_version
from features.sharding import ShardMap
from reaseq.errors import NewerRowFormat, ShardMapMismatch, StoreEvicts

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
local function get(key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value
end
local server = {field('server', 'run_id'), field('memory', 'maxmemory_policy'), field('stats', 'evicted_keys')}
return {get(KEYS[1]), get(KEYS[2]), server}
"""
DELETE_IF_EQUAL = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
REPLACE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end"
MARKER = re.compile(rb"([0-9a-f]{40}) ([0-9]+)")  # the server's run id, and its count of evicted keys
RENAME_IF_EXISTS = "return redis.call('EXISTS', KEYS[1]) == 1 and redis.call('RENAME', KEYS[1], KEYS[2])"


class RedisShard:
    """A client of one Redis. Every call that uses rows raises ShardMapMismatch if the Redis has recorded another map."""

    def __init__(self, project: str, url: str, shard_map: ShardMap, timeout_s: float, replicas: int) -> None:
        """`timeout_s` is for a connection and for each command; `replicas` must confirm a write."""
        self._project = project
        self._map = shard_map
        self._timeout_s = timeout_s
        self._replicas = replicas
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # Retry once, without waiting, if a pooled connection has been closed. Do not retry a timeout: that would take twice
            # as long as the caller allows. Callers that can wait longer retry themselves.
            retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
        )
        self._marker_key, self._map_key = self._system_key("whole"), self._system_key("shard")

    def compare_and_set(self, records: Sequence[Sequence[KeyedRow]]) -> list[bool]:
        """As `PackedOnlineStore.compare_and_set`."""
        try:
            outcomes = self._compare_and_set(records)
        except redis.exceptions.NoScriptError:  # a new Redis, or one that has restarted
            self._client.script_load(COMPARE_AND_SET)
            outcomes = self._compare_and_set(records)
        if NEWER_FORMAT in outcomes:
            raise NewerRowFormat(NEWER_ROW)
        return [outcome == STALE for outcome in outcomes]

    def _compare_and_set(self, records: Sequence[Sequence[KeyedRow]]) -> list[int]:
        """What the script returns for each record. Raises NoScriptError if Redis does not know the script.

        The script is called by its digest alone: to ask Redis first whether it knows it would take a second round trip.
        """
        with self._client.pipeline(transaction=False) as pipe:
            for start in range(0, len(records), WRITE_CHUNK_RECORDS):
                chunk = [keyed for record in records[start : start + WRITE_CHUNK_RECORDS] for keyed in record]
                keys = [*(self._row_key(keyed) for keyed in chunk), self._map_key]
                arguments: list[bytes | int] = [*(keyed.row for keyed in chunk), len(records[0]), self._map.entry]
                pipe.evalsha(COMPARE_AND_SET_SHA, len(keys), *keys, *arguments)
            if self._replicas:
                # WAIT covers only writes of this connection. A retry after a failure may write nothing, because the rows are
                # equal; the barrier key makes sure that there is a write to wait for.
                pipe.set(self._system_key("barrier"), b"")
                pipe.wait(self._replicas, round(self._timeout_s * 1000 * WAIT_SHARE))
            results = pipe.execute()
        if self._replicas:
            *results, _, confirmed = results
            if confirmed < self._replicas:
                raise redis.TimeoutError(f"{confirmed} of {self._replicas} replicas confirmed the write")
        for result in results:
            if isinstance(result, bytes):
                self._check_map(result)
        return [outcome for chunk_outcomes in results for outcome in chunk_outcomes]

    def replace(self, replacements: Sequence[tuple[KeyedRow, bytes]]) -> list[None]:
        """As `PackedOnlineStore.replace`."""
        script = self._client.register_script(REPLACE)
        return [script(keys=[self._row_key(keyed)], args=[stored, keyed.row]) for keyed, stored in replacements]

    def read(self, owners: Sequence[bytes]) -> list[bytes | None]:
        """The rows of the owners, in order, in one MGET; None for a missing row."""
        return self._mget([self._key(owner) for owner in owners])

    def read_versions(self, owners: Sequence[bytes]) -> list[RowVersion | None]:
        """The versions of the rows of the owners, in order; None for a missing row."""
        script = self._client.register_script(READ_VERSIONS)
        results: Any = script(keys=[*map(self._key, owners), self._map_key])
        *versions, recorded = results
        self._check_map(recorded or None, closed_too=True)
        return [read_version(version) if version else None for version in versions]

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every owner that begins with `prefix`, without it, and its row."""
        prefix, cursor = self._key(prefix), 0
        while True:
            cursor, page = self._client.scan(cursor, match=prefix + b"*", count=SCAN_PAGE_KEYS)  # type: ignore[misc]
            keys = [key[len(prefix) :] for key in page]
            yield from ((key, row) for key, row in zip(keys, self._mget(page), strict=True) if row)
            if not cursor:
                return

    def delete(self, owners: Sequence[bytes]) -> None:
        """Delete the rows of the owners."""
        for start in range(0, len(owners), SCAN_PAGE_KEYS):
            self._client.unlink(*map(self._key, owners[start : start + SCAN_PAGE_KEYS]))

    def read_eviction(self) -> Eviction:
        """What the Redis evicts."""
        return self._read_state().server.eviction

    def is_complete(self) -> bool:
        """Whether the completeness marker is set and valid. A new or emptied Redis lacks it.

        The marker holds the state of the server when its rebuild began. It is invalid, and is deleted, if keys were evicted
        since, or if it holds anything else. Raises StoreEvicts if Redis may evict keys.
        """
        marker, _, server = self._read_state()
        _require_no_eviction(server.eviction)
        if marker is not None and not server.holds_since(marker):
            # The counter of evicted keys does not survive a restart of Redis, so the marker must not either.
            self._client.register_script(DELETE_IF_EQUAL)(keys=[self._marker_key], args=[marker])
            return False
        return marker is not None

    def begin_rebuild(self) -> str:
        """Record the shard map, and set a marker of this rebuild, of which there may be several. Both are lost with the rows.

        Returns the rebuild's token.
        """
        (marker, recorded, server), token = self._read_state(), uuid4().hex
        _require_no_eviction(server.eviction)
        if marker is not None and recorded is None and self._map.shards > 1:  # of a release without shards
            raise ShardMapMismatch(self._map.refusal(ShardMap(0, 1).entry))
        self._client.set(self._map_key, self._map.entry, nx=True)
        self._client.set(self._rebuild_key(token), server.to_marker())
        return token

    def end_rebuild(self, token: str) -> bool:
        """Rename the marker of this rebuild, which is missing if Redis was emptied since `begin_rebuild`."""
        renamed = self._client.register_script(RENAME_IF_EXISTS)(keys=[self._rebuild_key(token), self._marker_key])
        return bool(renamed) and self.is_complete()

    def close(self) -> None:
        """From now on, refuse writes, and reads that require completeness. Other reads go on."""
        self._read_state(closed_too=True)
        self._client.set(self._map_key, self._map.closed_entry)
        self._client.delete(self._marker_key)  # for workers of a release that knows no map entries

    def _read_state(self, closed_too: bool = False) -> "_State":
        """The state of the Redis at one moment and in one round trip."""
        marker, recorded, server = self._client.register_script(READ_STATE)(keys=[self._marker_key, self._map_key])
        self._check_map(recorded, closed_too)
        run_id, policy, evicted_keys = server
        return _State(marker, recorded, _Server(run_id.decode(), Eviction(policy.decode(), int(evicted_keys))))

    def _mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, in order. The recorded map is read with them, so that no row is missed for a wrong one."""
        if not keys:
            return []
        values: list[bytes | None] = self._client.mget([*keys, self._map_key])  # type: ignore[assignment]
        recorded = values.pop()
        self._check_map(recorded, closed_too=True)
        return values

    def _check_map(self, recorded: bytes | None, closed_too: bool = False) -> None:
        """Raise ShardMapMismatch if the Redis has recorded another map, or, unless `closed_too`, that it is closed."""
        if recorded not in (None, self._map.entry) and not (closed_too and recorded == self._map.closed_entry):
            raise ShardMapMismatch(self._map.refusal(recorded))

    def _row_key(self, keyed: KeyedRow) -> bytes:
        return self._key(row_owner(keyed.table, keyed.key))

    def _key(self, owner: bytes) -> bytes:
        return f"{self._project}:".encode() + owner

    def _system_key(self, name: str) -> bytes:
        """A key that belongs to no view."""
        return self._key(f":{name}".encode())

    def _rebuild_key(self, token: str) -> bytes:
        return self._system_key(f"rebuilding-{token}")


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


class _State(NamedTuple):
    """What decides whether a Redis may be used."""

    marker: bytes | None  # of completeness
    recorded: bytes | None  # map entry
    server: _Server


def _require_no_eviction(eviction: Eviction) -> None:
    if eviction.policy != NO_EVICTION:
        raise StoreEvicts(f"Redis would evict rows when its memory is full: set maxmemory-policy to {NO_EVICTION}")
