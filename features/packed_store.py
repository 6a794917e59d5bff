"""A Feast online store that keeps its promises: newest wins, atomically, one packed row per entity and view.

Feast's own stores overwrite newer with older or check without atomicity. This base holds the contract and Feast's
interface; a flavour says only how packed rows are put (those of a record together, greater order wins), got and listed.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
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

from features import row_format as rows

KEY_VERSION = 3  # Feast's serialisation of entity keys


def entity_key(join_key: str, entity_id: str) -> EntityKey:
    """Feast's key of an entity with one string id."""
    return EntityKey(join_keys=[join_key], entity_values=[Value(string_val=entity_id)])


def parse_entity_id(key: bytes) -> str:
    """The string id at the end of a serialised key of one string id: its length stands in the four bytes before it."""
    at = 4 + 4 + 4 + int.from_bytes(key[8:12], "little") + 4
    return key[at + 4 :].decode()


def unpacked(
    table: FeatureView, packed: Sequence[bytes | None], names: Sequence[str] | None = None
) -> list[tuple[datetime | None, dict[str, Value] | None]]:
    """Event time and features of each packed row of a view; (None, None) where there is none."""
    names = names or [feature.name for feature in table.features]
    return [(rows.read_version(row).event_time, rows.unpack(row, names)) if row else (None, None) for row in packed]


class PlacedRow(NamedTuple):
    """A packed row and where it belongs."""

    table: FeatureView
    key: bytes
    row: bytes


class PackedOnlineStore(OnlineStore):  # type: ignore[misc]  # Feast ships no types
    """Feast's online-store interface over packed rows; see the module for the contract."""

    @abstractmethod
    def put(self, config: RepoConfig, records: Sequence[Sequence[PlacedRow]]) -> list[bool]:
        """Write records, each the rows of an entity in so many views, as many as the others: all of them at once or none.

        A record lands if and only if it is greater than what is there: by the order in the first view where they differ.
        Returns which of them a greater one keeps out.
        """

    @abstractmethod
    def get(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        """The packed rows of `keys`, in their order; None where there is none."""

    @abstractmethod
    def get_all(self, config: RepoConfig, asked: Sequence[tuple[FeatureView, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """The packed rows of several views, as they stand at one moment."""

    @abstractmethod
    def read_versions(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[rows.RowVersion | None]:
        """The read_versions of the rows of `keys`, without the rows; None where there is none."""

    @abstractmethod
    def scan(self, config: RepoConfig, table: FeatureView) -> Iterator[tuple[bytes, bytes]]:
        """Every (entity key, packed row) of the view, in no order. Rows written meanwhile may or may not be seen."""

    def is_complete(self, config: RepoConfig) -> bool:
        """Whether nobody has emptied the store since it was filled. A file is not emptied behind our back."""
        return True

    def begin_rebuild(self, config: RepoConfig) -> None:
        """The store is about to be filled."""

    def end_rebuild(self, config: RepoConfig) -> None:
        """It is whole now. Fails where it was emptied since `begin_rebuild`."""

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write a batch; older rows are kept out whatever the order and whoever writes at the same time."""
        records = [
            [PlacedRow(table, serialize_entity_key(key, KEY_VERSION), rows.pack(values, event_time))]
            for key, values, event_time, _ in data
        ]
        self.put(config, records)
        if progress:
            progress(len(records))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """The rows of `entity_keys`, in their order; (None, None) where there is none."""
        keys = [serialize_entity_key(key, KEY_VERSION) for key in entity_keys]
        return unpacked(table, self.get(config, table, keys), requested_features)

    def online_read_numpy(
        self, config: RepoConfig, table: FeatureView, entity_keys: Sequence[EntityKey], feature: str, dtype: DTypeLike
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """One bytes feature of many entities as an array (N, D) of `dtype`, and which of them were found (N,).

        All rows found must hold the same number of values; the rows that are missing read as zeros.
        """
        keys = [serialize_entity_key(key, KEY_VERSION) for key in entity_keys]
        contents = [rows.content(row, feature) if row else b"" for row in self.get(config, table, keys)]
        found = np.fromiter((bool(content) for content in contents), dtype=bool, count=len(contents))
        present = np.frombuffer(b"".join(contents), dtype=dtype).reshape(int(found.sum()), -1) if found.any() else None
        values = np.zeros((len(contents), 0 if present is None else present.shape[1]), dtype=dtype)  # (N, D)
        if present is not None:
            values[found] = present
        return values, found

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete every row of `tables`."""
        self.update(config, tables, [], entities, [], partial=True)
