"""The records on the topics: items and events in, feature records out.

Records are frozen and validated once, when they are decoded. The `schema` tag holds type and version: a new optional field
keeps the version, any other change needs a new one. Times are milliseconds since the epoch, UTC.
"""

from reaseq.records.event import EVENT_TYPES, VALUE_UNITS, Event, EventType, MicroValue
from reaseq.records.event_deltas import SOURCE_LIMIT_CHARS, EventDelta, EventDeltas, read_partition, to_source
from reaseq.records.fields import (
    EARLIEST_TIME_MS,
    ID_LIMIT_CHARS,
    TIME_LIMIT_MS,
    TIME_UNITS_MS,
    TITLE_LIMIT_CHARS,
    Version,
    describe_wrong_time,
    find_time_unit,
)
from reaseq.records.item import ATTRIBUTES_LIMIT, Item
from reaseq.records.item_aggregates import ItemAggregates, to_part_id
from reaseq.records.item_features import STATUS_RANK, Claim, ItemFeatures, ProductKnowledge, Status
from reaseq.records.user_features import LEVELS, History, Inferred, UserFeatures, read_revision

FeatureRecord = ItemFeatures | UserFeatures | ItemAggregates

__all__ = [
    "ATTRIBUTES_LIMIT",
    "EARLIEST_TIME_MS",
    "EVENT_TYPES",
    "ID_LIMIT_CHARS",
    "LEVELS",
    "SOURCE_LIMIT_CHARS",
    "STATUS_RANK",
    "TIME_LIMIT_MS",
    "TIME_UNITS_MS",
    "TITLE_LIMIT_CHARS",
    "VALUE_UNITS",
    "Claim",
    "Event",
    "EventDelta",
    "EventDeltas",
    "EventType",
    "FeatureRecord",
    "History",
    "Inferred",
    "Item",
    "ItemAggregates",
    "ItemFeatures",
    "MicroValue",
    "ProductKnowledge",
    "Status",
    "UserFeatures",
    "Version",
    "describe_wrong_time",
    "find_time_unit",
    "read_partition",
    "read_revision",
    "to_part_id",
    "to_source",
]
