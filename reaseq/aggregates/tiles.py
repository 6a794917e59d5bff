"""Tiles: the counts of an item's events by spans of time, from which windows of any length are summed.

The model is Chronon's: https://chronon.ai/Tiled_Architecture.html
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Literal, NamedTuple

import msgspec

from reaseq.aggregates.aggregate import Aggregate

Measure = Literal["events", "valued", "sum"]  # all events; those that have a value; the sum of their values, in millionths

_MEASURES: dict[str, tuple[Measure, ...]] = {
    "count": ("events",),
    "ratio": ("events",),
    "sum": ("sum",),
    "mean": ("sum", "valued"),
}


class Series(NamedTuple):
    """One kept series of tiles: a number about the events of a type, for each tile."""

    event_type: str
    measure: Measure
    tile_ms: int


Tiles = dict[Series, dict[int, int]]  # by the tile's number since the epoch; tiles without events are left out


def kept_series(aggregates: Iterable[Aggregate]) -> dict[Series, int]:
    """The series that the aggregates need, each with the number of tiles that their longest window covers."""
    kept: dict[Series, int] = {}
    for aggregate in aggregates:
        for event_type in (*aggregate.event_types, *aggregate.over):
            for measure in _MEASURES[aggregate.function]:
                for span in aggregate.spans:
                    series = Series(event_type, measure, span.tile_ms)
                    kept[series] = max(span.tiles, kept.get(series, 0))
    return kept


def drop_expired(tiles: Tiles, kept: Mapping[Series, int], newest_ms: int) -> Tiles:
    """The tiles of kept series within their longest window before the newest event.

    One tile more is kept: events may be dated ahead of the clock, by less than a tile.
    """
    current: Tiles = {}
    for series in tiles.keys() & kept.keys():
        oldest = newest_ms // series.tile_ms - kept[series]
        numbers = {tile: number for tile, number in tiles[series].items() if tile >= oldest and number}
        if numbers:
            current[series] = numbers
    return current


def pack_tiles(tiles: Tiles) -> bytes:
    """Pack tiles into MessagePack: the steps from tile to tile and the numbers of each series. Equal tiles give equal bytes."""
    packed = []
    for series in sorted(tiles):
        numbers = sorted(tiles[series])
        steps = [tile - before for tile, before in zip(numbers, [0, *numbers], strict=False)]
        packed.append((*series, steps, [tiles[series][tile] for tile in numbers]))
    return msgspec.msgpack.encode(packed)


def unpack_series(packed: bytes) -> Iterator[tuple[Series, Iterable[int], list[int]]]:
    """Each series in packed tiles, with its tiles in order of time and their numbers."""
    for event_type, measure, tile_ms, steps, numbers in _decoder.decode(packed) if packed else ():
        yield Series(event_type, measure, tile_ms), accumulate(steps), numbers


def unpack_tiles(packed: bytes) -> Tiles:
    """The inverse of `pack_tiles`."""
    return {series: dict(zip(tiles, numbers, strict=True)) for series, tiles, numbers in unpack_series(packed)}


_decoder = msgspec.msgpack.Decoder(list[tuple[str, Measure, int, list[int], list[int]]])
