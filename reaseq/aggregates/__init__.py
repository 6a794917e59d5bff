"""Aggregates of items: counts, sums, means and ratios of events, which the stream keeps in tiles of time.

Pure code: which tiles an aggregate needs, how a change of an event updates them, and what they say at a point in time, for
one item (`evaluate`), for many items as records of the stream have them (`AggregateTable`), or as a log of events has
them (`LoggedAggregates`).
"""

from reaseq.aggregates.aggregate import Aggregate
from reaseq.aggregates.built_in import BUILT_IN, POPULARITY
from reaseq.aggregates.evaluation import evaluate, merge_tiles
from reaseq.aggregates.event_log import EventLog, LoggedAggregates
from reaseq.aggregates.fold import PartialRow
from reaseq.aggregates.table import AggregateTable
from reaseq.aggregates.tiles import Series, Tiles, kept_series, pack_tiles, unpack_tiles

__all__ = [
    "BUILT_IN",
    "POPULARITY",
    "Aggregate",
    "AggregateTable",
    "EventLog",
    "LoggedAggregates",
    "PartialRow",
    "Series",
    "Tiles",
    "evaluate",
    "kept_series",
    "merge_tiles",
    "pack_tiles",
    "unpack_tiles",
]
