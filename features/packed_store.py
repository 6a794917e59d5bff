"""A Feast online store with an atomic newest-wins write: one packed row per entity and view.

Feast's own stores overwrite newer rows with older ones, or check without atomicity. This base class defines the contract and
implements Feast's interface; a subclass implements how packed rows are written, read and scanned.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from feast import Entity, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from numpy.typing import DTypeLike, NDArray

from features.row_format import RowVersion, pack, read_version, unpack, unpack_bytes

KEY_VERSION = 3  # Feast's serialization of entity keys
NO_EVICTION = "noeviction"
NEWER_ROW = "a newer release wrote a row of which this one would drop a part: waiting for the upgrade of this process"


def entity_key(join_key: str, entity_id: str) -> EntityKey:
    """Build Feast's key of an entity with one string id."""
    return EntityKey(join_keys=[join_key], entity_values=[Value(string_val=entity_id)])


def entity_id_bytes(key: bytes) -> bytes:
    """The encoded id in a serialized entity key. The id comes last; the four bytes before it are its length.

    Other bytes give some bytes, whose key they are not.
    """
    length_position = 4 + 4 + 4 + int.from_bytes(key[8:12], "little") + 4
    return key[length_position + 4 :]


def parse_entity_id(key: bytes) -> str:
    """The string id in a serialized entity key."""
    return entity_id_bytes(key).decode(errors="replace")


def row_owner(table: FeatureView, key: bytes) -> bytes:
    """The owner of a row (see `features.row_format`): its view and its serialized entity key."""
    return f"{table.name}:".encode() + key


def unpack_rows(
    table: FeatureView, packed: Sequence[bytes | None], names: Sequence[str] | None = None
) -> list[tuple[datetime | None, dict[str, Value] | None]]:
    """Event time and features of each packed row of a view; (None, None) for a missing row."""
    names = names or [feature.name for feature in table.features]
    return [(read_version(row).event_time, unpack(row, names)) if row else (None, None) for row in packed]


class KeyedRow(NamedTuple):
    """A packed row with its view and its serialized entity key."""

    table: FeatureView
    key: bytes
    row: bytes


class Eviction(NamedTuple):
    """What the store deletes by itself when its memory is full."""

    policy: str  # Redis's `maxmemory-policy`; NO_EVICTION means that nothing is deleted
    evicted_keys: int  # deleted since the server started


Request = tuple[FeatureView, Sequence[bytes]]  # a view, and the serialized keys of the entities to read
Tokens = Mapping[int, str]  # of a rebuild, by shard


class PackedOnlineStore(OnlineStore):  # type: ignore[misc]  # Feast ships no types
    """Feast's online-store interface over packed rows."""

    @abstractmethod
    def compare_and_set(self, config: RepoConfig, records: Sequence[Sequence[KeyedRow]]) -> list[bool]:
        """Write each record whose version is greater than the stored one; all rows of a record are written, or none.

        A record is the rows of one entity, one per view; all records must have the same number of rows. The first view whose
        versions differ decides. Returns for each record whether it was rejected as stale, because the stored version is
        greater. An equal record changes nothing and is not stale. Raises NewerRowFormat if a record would replace rows of a
        newer format; some of the other records may have been written by then.
        """

    @abstractmethod
    def replace(self, config: RepoConfig, replacements: Sequence[tuple[KeyedRow, bytes]]) -> None:
        """Write each row in place of exactly this stored one, whatever their versions. A row that has changed since stays."""

    @abstractmethod
    def get(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        """The packed rows of `keys`, in order; None for a missing row."""

    @abstractmethod
    def get_all(self, config: RepoConfig, requests: Sequence[Request]) -> list[list[bytes | None]]:
        """The packed rows of several (view, keys) requests; the rows of an entity are read from one consistent state."""

    def get_available(self, config: RepoConfig, requests: Sequence[Request]) -> tuple[list[list[bytes | None]], set[int]]:
        """As `get_all`, with the rows on shards that do not answer as missing, and the numbers of these shards.

        A store of one part answers as a whole or raises.
        """
        return self.get_all(config, requests), set()

    @abstractmethod
    def read_versions(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[RowVersion | None]:
        """The versions of the rows of `keys`, in order, without reading the rows; None for a missing row."""

    @abstractmethod
    def scan(self, config: RepoConfig, table: FeatureView) -> Iterator[tuple[bytes, bytes]]:
        """Every (entity key, packed row) of the view, in any order. Rows written during the scan may or may not be seen."""

    # The defaults below are of a store of one part, shard 0, that nothing empties from outside, such as a file.

    def count_shards(self, config: RepoConfig) -> int:
        """The number of shards that the entities are spread over."""
        return 1

    def read_eviction(self, config: RepoConfig, shard: int) -> Eviction:
        """What a shard evicts."""
        return Eviction(NO_EVICTION, 0)

    def find_incomplete(self, config: RepoConfig, shards: Iterable[int]) -> list[int]:
        """Those of the shards whose completeness marker is missing, or that have evicted rows since it was set.

        Raises StoreEvicts if one of them may evict rows, and ShardMapMismatch.
        """
        return []

    def begin_rebuild(self, config: RepoConfig, shards: Iterable[int]) -> Tokens:
        """Start a rebuild of these shards. Raises StoreEvicts if one may evict rows, and ShardMapMismatch."""
        return {}

    def end_rebuild(self, config: RepoConfig, tokens: Tokens) -> list[int]:
        """Set the completeness markers, except of shards that lost rows since `begin_rebuild`. Returns those."""
        return []

    def close(self, config: RepoConfig) -> None:
        """Refuse writes from now on, because another store has replaced this one. Readers may go on."""
        raise NotImplementedError

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write a batch through `compare_and_set`. Stale rows are rejected, in any order and with any number of writers."""
        rows = [(serialize_entity_key(key, KEY_VERSION), values, event_time) for key, values, event_time, _ in data]
        records = [[KeyedRow(table, key, pack(values, time, row_owner(table, key)))] for key, values, time in rows]
        self.compare_and_set(config, records)
        if progress:
            progress(len(records))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Event time and features of `entity_keys`, in order; (None, None) for a missing row."""
        keys = [serialize_entity_key(key, KEY_VERSION) for key in entity_keys]
        return unpack_rows(table, self.get(config, table, keys), requested_features)

    def online_read_numpy(
        self, config: RepoConfig, table: FeatureView, entity_keys: Sequence[EntityKey], feature: str, dtype: DTypeLike
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read one bytes feature of many entities as an array (N, D) of `dtype`, with a mask of the rows found (N,).

        All rows must hold the same number of values. Missing rows read as zeros.
        """
        keys = [serialize_entity_key(key, KEY_VERSION) for key in entity_keys]
        contents = [unpack_bytes(row, feature) if row else b"" for row in self.get(config, table, keys)]
        found = np.fromiter((bool(content) for content in contents), dtype=bool, count=len(contents))
        present = np.frombuffer(b"".join(contents), dtype=dtype).reshape(int(found.sum()), -1) if found.any() else None
        values = np.zeros((len(contents), 0 if present is None else present.shape[1]), dtype=dtype)  # (N, D)
        if present is not None:
            values[found] = present
        return values, found

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete every row of `tables`."""
        self.update(config, tables, [], entities, [], partial=True)
