"""The packed online store on Redis (production profile): on one Redis, or with its entities spread over several."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Literal, TypeVar

import redis
from feast import Entity, FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import SecretStr

from features.packed_store import Eviction, KeyedRow, PackedOnlineStore, Request, Tokens, entity_id_bytes, row_owner
from features.redis_shard import RedisShard
from features.row_format import RowVersion
from features.sharding import ShardMap, shard_of
from reaseq.errors import StoreUnavailable
from reaseq.settings.store import split_redis_urls

CALLS_PER_SHARD = 4  # at once; a shard that hangs holds up only calls to itself
FAILURES = (redis.RedisError, OSError, StoreUnavailable)

T = TypeVar("T")
R = TypeVar("R")
Failures = Mapping[int, Exception]  # by shard


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The `online_store` section of `feature_store.production.yaml`."""

    type: Literal["features.redis_store.PackedRedisOnlineStore"] = "features.redis_store.PackedRedisOnlineStore"
    url: SecretStr  # or the URLs of the shards, in order, with commas between
    timeout_s: float = 2.0  # for a connection and for each command
    replicas: int = 0  # replicas of each Redis that must confirm a write


class PackedRedisOnlineStore(PackedOnlineStore):
    """One key per row. Several Redis servers are shards: each holds all rows of its entities, and knows nothing of the others.

    A call goes to the shards of its keys at the same time. If some fail, it is completed on the others before it raises.
    """

    def __init__(self) -> None:
        self._shards: list[RedisShard] = []
        self._threads: list[ThreadPoolExecutor] = []

    def compare_and_set(self, config: RepoConfig, records: Sequence[Sequence[KeyedRow]]) -> list[bool]:
        return self._map(config, records, lambda record: record[0].key, RedisShard.compare_and_set)

    def replace(self, config: RepoConfig, replacements: Sequence[tuple[KeyedRow, bytes]]) -> None:
        self._map(config, replacements, lambda pair: pair[0].key, RedisShard.replace)

    def get(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.get_all(config, [(table, keys)])[0]

    def get_all(self, config: RepoConfig, requests: Sequence[Request]) -> list[list[bytes | None]]:
        """Read the rows of all requests in one MGET per shard."""
        return _split(requests, self._map(config, _wanted(requests), _key, _read))

    def get_available(self, config: RepoConfig, requests: Sequence[Request]) -> tuple[list[list[bytes | None]], set[int]]:
        found = self._fan_out(config, _wanted(requests), _key, _read)
        return _split(requests, found[0]), set(found[1])

    def read_versions(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[RowVersion | None]:
        def read(shard: RedisShard, own_keys: Sequence[bytes]) -> list[RowVersion | None]:
            return shard.read_versions([row_owner(table, key) for key in own_keys])

        return self._map(config, keys, lambda key: key, read)

    def scan(self, config: RepoConfig, table: FeatureView) -> Iterator[tuple[bytes, bytes]]:
        """Scan one shard after the other. If some fail, the others are scanned before it raises."""
        failures: dict[int, Exception] = {}
        for number, shard in enumerate(self._connect(config)):
            try:
                yield from shard.scan(row_owner(table, b""))
            except FAILURES as error:
                failures[number] = error
        self._raise_first(failures)

    def count_shards(self, config: RepoConfig) -> int:
        return len(self._connect(config))

    def read_eviction(self, config: RepoConfig, shard: int) -> Eviction:
        return self._each(config, [shard], RedisShard.read_eviction)[shard]

    def find_incomplete(self, config: RepoConfig, shards: Iterable[int]) -> list[int]:
        complete = self._each(config, shards, RedisShard.is_complete)
        return [shard for shard, is_complete in complete.items() if not is_complete]

    def begin_rebuild(self, config: RepoConfig, shards: Iterable[int]) -> Tokens:
        return self._each(config, shards, RedisShard.begin_rebuild)

    def end_rebuild(self, config: RepoConfig, tokens: Tokens) -> list[int]:
        shards = self._connect(config)
        return [number for number, token in tokens.items() if not shards[number].end_rebuild(token)]

    def close(self, config: RepoConfig) -> None:
        self._each(config, range(self.count_shards(config)), RedisShard.close)

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
            for shard in self._connect(config):
                shard.delete([row_owner(table, key) for key, _ in shard.scan(row_owner(table, b""))])

    def _map(
        self,
        config: RepoConfig,
        items: Sequence[T],
        key: Callable[[T], bytes],
        call: Callable[[RedisShard, Sequence[T]], Sequence[R]],
    ) -> list[R]:
        """As `_fan_out`, but raises the failure of a shard once all have been called."""
        shards = self._connect(config)
        if len(shards) == 1:
            return list(call(shards[0], items)) if items else []
        results, failures = self._fan_out(config, items, key, call)
        self._raise_first(failures)
        return results  # type: ignore[return-value]  # nothing is missing

    def _fan_out(
        self,
        config: RepoConfig,
        items: Sequence[T],
        key: Callable[[T], bytes],
        call: Callable[[RedisShard, Sequence[T]], Sequence[R]],
    ) -> tuple[list[R | None], Failures]:
        """The results of `call` for the items, in order, each from the shard of its key; None where it failed."""
        shards = len(self._connect(config))
        positions: dict[int, list[int]] = {}
        for position, item in enumerate(items):
            positions.setdefault(shard_of(entity_id_bytes(key(item)), shards), []).append(position)
        calls = {shard: partial(call, self._shards[shard], [items[i] for i in own]) for shard, own in positions.items()}
        found, failures = self._call(calls)
        results: list[R | None] = [None] * len(items)
        for shard, values in found.items():
            for position, value in zip(positions[shard], values, strict=True):
                results[position] = value
        return results, failures

    def _each(self, config: RepoConfig, shards: Iterable[int], call: Callable[[RedisShard], R]) -> dict[int, R]:
        """The result of `call` for each shard. Raises the failure of a shard once all have been called."""
        connected = self._connect(config)
        found, failures = self._call({shard: partial(call, connected[shard]) for shard in shards})
        self._raise_first(failures)
        return found

    def _call(self, calls: Mapping[int, Callable[[], R]]) -> tuple[dict[int, R], Failures]:
        """Call all shards at the same time, the first one in this thread. The results and the failures, by shard."""
        found, failures = dict[int, R](), dict[int, Exception]()
        waiting = {shard: self._threads[shard].submit(call) for shard, call in islice(calls.items(), 1, None)}
        for shard, call in calls.items():
            try:
                found[shard] = waiting[shard].result() if shard in waiting else call()
            except FAILURES as error:
                failures[shard] = error
        return found, failures

    def _raise_first(self, failures: Failures) -> None:
        """Raise one of the failures, if there are any: one that says what to do, before one of a shard that does not answer."""
        for error in failures.values():
            if isinstance(error, StoreUnavailable):
                raise error
        for shard, error in failures.items():
            if len(self._shards) == 1:
                raise error
            raise redis.RedisError(f"{ShardMap(shard, len(self._shards))}: {error}") from error

    def _connect(self, config: RepoConfig) -> list[RedisShard]:
        if not self._shards:
            settings = config.online_store
            urls = split_redis_urls(settings.url)
            self._threads = [ThreadPoolExecutor(CALLS_PER_SHARD, f"shard-{number + 1}") for number in range(len(urls))]
            self._shards = [
                RedisShard(config.project, url, ShardMap(number, len(urls)), settings.timeout_s, settings.replicas)
                for number, url in enumerate(urls)
            ]
        return self._shards


Wanted = tuple[bytes, bytes]  # the serialized key of an entity, and the owner of one of its rows


def _wanted(requests: Sequence[Request]) -> list[Wanted]:
    return [(key, row_owner(table, key)) for table, keys in requests for key in keys]


def _key(wanted: Wanted) -> bytes:
    return wanted[0]


def _read(shard: RedisShard, wanted: Sequence[Wanted]) -> list[bytes | None]:
    return shard.read([owner for _, owner in wanted])


def _split(requests: Sequence[Request], rows: Sequence[bytes | None]) -> list[list[bytes | None]]:
    """The rows of each request."""
    left = iter(rows)
    return [list(islice(left, len(keys))) for _, keys in requests]
