"""What the stream would keep of a log of purchases, without running it."""

from collections import defaultdict
from collections.abc import Iterable

from reaseq.aggregates import BUILT_IN, PartialRow, kept_series
from reaseq.records import EventDelta, ItemAggregates

PARTITIONS = 4


def fold_purchases(purchases: Iterable[tuple[str, int]]) -> list[ItemAggregates]:
    """The rows of all items and partitions after these purchases, (item id, time in ms), which are dealt to the partitions."""
    deltas: dict[tuple[str, str], list[EventDelta]] = defaultdict(list)
    for offset, (item_id, time_ms) in enumerate(purchases):
        source = str(offset % PARTITIONS)
        deltas[item_id, source].append(EventDelta(source, offset, offset, 1, item_id, "purchase", time_ms, None))
    kept, records = kept_series(BUILT_IN), []
    for (item_id, source), of_row in deltas.items():
        row = PartialRow(item_id, source, None, kept)
        row.apply(of_row)
        records.append(row.record())
    return records
