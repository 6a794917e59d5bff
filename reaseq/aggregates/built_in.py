"""The aggregates that every system keeps."""

from reaseq.aggregates.aggregate import Aggregate
from reaseq.records import EVENT_TYPES

POPULARITY = Aggregate("popularity", "count", event_types=EVENT_TYPES, half_lives=("1d", "7d", "30d"))

BUILT_IN = (POPULARITY,)
