"""The values of aggregates at a point in time: a function of tiles alone, so training and serving compute the same numbers."""

import math
from collections.abc import Iterable

from reaseq.aggregates.aggregate import Aggregate, Span
from reaseq.aggregates.tiles import Measure, Series, Tiles
from reaseq.records import VALUE_UNITS


def merge_tiles(parts: Iterable[Tiles]) -> Tiles:
    """The sum of tiles: the rows of one item, from all sources."""
    merged: Tiles = {}
    for tiles in parts:
        for series, numbers in tiles.items():
            total = merged.setdefault(series, {})
            for tile, number in numbers.items():
                total[tile] = total.get(tile, 0) + number
    return merged


def evaluate(aggregate: Aggregate, tiles: Tiles, now_ms: int) -> dict[str, float]:
    """The features of an aggregate of one item at `now_ms`, which is not before its newest event.

    A window of W covers the W / tile tiles that end with the one of `now_ms`. So its oldest events leave it a tile at a time:
    it is up to one tile shorter than W. A decayed count is Σ 2^(−age / half-life), where the age of an event is that of the
    middle of its tile, at least 0. A mean or ratio of nothing is NaN.
    """
    return {span.feature: _value(aggregate, span, tiles, now_ms) for span in aggregate.spans}


def weight(span: Span, tile: int, now_ms: int) -> float:
    """How much a tile counts at `now_ms`."""
    now_tile = now_ms // span.tile_ms
    if not now_tile - span.tiles < tile <= now_tile:
        return 0
    if not span.half_life_ms:
        return 1
    age_ms = max(0.0, now_ms - (tile + 0.5) * span.tile_ms)
    return float(2 ** (-age_ms / span.half_life_ms))


def _value(aggregate: Aggregate, span: Span, tiles: Tiles, now_ms: int) -> float:
    def total(event_types: Iterable[str], measure: Measure) -> float:
        """Of a window, an exact integer."""
        series = (tiles.get(Series(event_type, measure, span.tile_ms), {}) for event_type in event_types)
        numbers = [number * weight(span, tile, now_ms) for found in series for tile, number in sorted(found.items())]
        return math.fsum(numbers) if span.half_life_ms else sum(numbers)

    match aggregate.function:
        case "count":
            return total(aggregate.event_types, "events")
        case "sum":
            return total(aggregate.event_types, "sum") / VALUE_UNITS
        case "mean":
            return _divide(total(aggregate.event_types, "sum") / VALUE_UNITS, total(aggregate.event_types, "valued"))
        case "ratio":
            return _divide(total(aggregate.event_types, "events"), total(aggregate.over, "events"))


def _divide(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor else math.nan
