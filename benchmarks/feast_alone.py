"""The setup with Feast alone: Feast's Redis store with one feature per column, read into tensors on each request."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import torch
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types.Value_pb2 import DoubleList, Int64List, StringList, Value
from feast.repo_config import RepoConfig
from feast.types import Array, Float64, Int64, String

from evaluation.datasets.interaction_log import InteractionLog
from features.packed_store import KEY_VERSION, entity_key
from reaseq.aggregates import AggregateTable
from reaseq.records import UserFeatures
from reaseq.representation.contents import Contents
from reaseq.representation.item_table import ItemTable, Snapshot, build_snapshot
from reaseq.settings import Settings

ITEM_FIELDS = {
    "vector": Array(Float64),
    "claims": Array(Int64),
    "claim_confidences": Array(Float64),
    "price": Float64,
    "listed_ms": Int64,
    "counts": Array(Float64),
}
USER_FIELDS = {
    "item_ids": Array(String),
    "types": Array(Int64),
    "times_ms": Array(Int64),
    "inferred": Array(String),
    "confidences": Array(Float64),
}


def start_feast(settings: Settings, port: int) -> FeatureStore:
    """A Feast repository on database 1 of the Redis at `port`, with the views `item` and `user`."""
    folder = settings.state_dir / "feast"
    folder.mkdir(exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="alone",
            provider="local",
            registry={"path": str(folder / "registry.db"), "cache_mode": "thread", "cache_ttl_seconds": 3600},
            online_store={"type": "redis", "connection_string": f"127.0.0.1:{port},db=1"},
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=KEY_VERSION,
            repo_path=folder,
        )
    )
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    source = FileSource(path=str(folder / "none.parquet"), timestamp_field="event_timestamp")
    fields = {"item": (item, ITEM_FIELDS), "user": (user, USER_FIELDS)}
    feature_views = [
        FeatureView(
            name=name,
            entities=[entity],
            ttl=timedelta(0),
            source=source,
            schema=[Field(name=field, dtype=dtype) for field, dtype in schema.items()],
        )
        for name, (entity, schema) in fields.items()
    ]
    store.apply([item, user, *feature_views])
    return store


def write_items(store: FeatureStore, log: InteractionLog, aggregates: AggregateTable, table: ItemTable) -> None:
    """Write every item of the log."""
    contents = table.snapshot.contents
    counts = aggregates.evaluate(np.arange(1, len(log.items) + 1), log.baskets[-1].time_ms)
    rows = {}
    for index, item in enumerate(log.items):
        rows[item.item_id] = {
            "vector": _doubles(contents.vectors[index + 1].tolist()),
            "claims": Value(int64_list_val=Int64List(val=contents.claims[index + 1].tolist())),
            "claim_confidences": _doubles(contents.confidences[index + 1].tolist()),
            "price": Value(double_val=item.price or 0.0),
            "listed_ms": Value(int64_val=item.event_time_ms),
            "counts": _doubles(counts[index].tolist()),
        }
    _write(store, "item", rows)


def write_users(store: FeatureStore, users: Sequence[UserFeatures]) -> None:
    """Write the users' histories and inferred behaviors."""
    rows = {}
    for user in users:
        rows[user.user_id] = {
            "item_ids": Value(string_list_val=StringList(val=user.history.item_ids)),
            "types": Value(int64_list_val=Int64List(val=user.history.types)),
            "times_ms": Value(int64_list_val=Int64List(val=user.history.times_ms)),
            "inferred": Value(string_list_val=StringList(val=user.inferred.item_ids)),
            "confidences": _doubles(user.inferred.confidences),
        }
    _write(store, "user", rows)


def _write(store: FeatureStore, view: str, rows: dict[str, dict[str, Value]]) -> None:
    """Write `rows`, by entity id, to the feature view `view`."""
    now = datetime.now(UTC)
    batch = [(entity_key(f"{view}_id", entity_id), values, now, now) for entity_id, values in rows.items()]
    for start in range(0, len(batch), 500):
        feature_view = store.get_feature_view(view)
        store._get_provider().online_write_batch(store.config, feature_view, batch[start : start + 500], None)


def _doubles(values: Sequence[float]) -> Value:
    return Value(double_list_val=DoubleList(val=values))


def build_table(item_ids: list[str], columns: dict[str, list[Any]]) -> Snapshot:
    """A table of the items that Feast returned; row 0 is the unknown item."""
    vectors = torch.tensor(columns["vector"], dtype=torch.float32)
    claims = torch.tensor(columns["claims"], dtype=torch.long)
    confidences = torch.tensor(columns["claim_confidences"], dtype=torch.float32)
    contents = Contents.without_attributes(
        *(torch.cat([torch.zeros_like(rows[:1]), rows]) for rows in (vectors, claims, confidences))
    )
    prices = torch.tensor([0.0, *columns["price"]])
    listed = torch.tensor([0, *columns["listed_ms"]])
    return build_snapshot(["", *item_ids], contents, prices, listed, torch.ones(len(item_ids) + 1, dtype=torch.bool))
