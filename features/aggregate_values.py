"""The values of aggregates at a point in time, from the rows in the online store."""

from collections.abc import Sequence

from features.definitions import item_aggregates
from features.repository import FeatureRepository
from reaseq.aggregates import Aggregate, evaluate, merge_tiles, unpack_tiles


def read_aggregate_values(
    repository: FeatureRepository, aggregates: Sequence[Aggregate], item_ids: Sequence[str], now_ms: int
) -> dict[str, dict[str, float]]:
    """The features of each item, all rows added up: zero or NaN for an item without events.

    Goes through the keys of all rows, to find those of an item from any source. Raises StoreUnavailable.
    """
    part_ids: dict[str, list[str]] = {item_id: [] for item_id in item_ids}
    for part_id in repository.scan_ids(item_aggregates):
        _, _, item_id = part_id.partition("/")
        if item_id in part_ids:
            part_ids[item_id].append(part_id)
    values: dict[str, dict[str, float]] = {}
    for item_id, parts in part_ids.items():
        tiles = merge_tiles(unpack_tiles(row.tiles) for row in repository.read_aggregates(parts).values())
        values[item_id] = {
            feature: value for aggregate in aggregates for feature, value in evaluate(aggregate, tiles, now_ms).items()
        }
    return values
