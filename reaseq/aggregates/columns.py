"""The values of aggregates for many items at once: those that `reaseq.aggregates.evaluate` gives for each."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from reaseq.aggregates.aggregate import Aggregate, Span
from reaseq.aggregates.ragged import Ints
from reaseq.aggregates.tiles import Measure
from reaseq.records import VALUE_UNITS

Floats = NDArray[np.float64]


class SummedSeries(NamedTuple):
    """A number about the events of some types, for each tile: the sum of a `Series` for each type."""

    event_types: tuple[str, ...]
    measure: Measure
    tile_ms: int


class Entries(NamedTuple):
    """Tiles of one series, of C items at as many moments."""

    lengths: Ints  # (C,) how many tiles each item has
    tiles: Ints  # (E,) item by item
    numbers: Floats  # (E,)
    partial_tiles: Ints  # (C,) a tile of each item that was not over at its moment
    partial_numbers: Floats | Ints  # (C,)


class Column(NamedTuple):
    """One feature: a sum of weighted numbers, by another one if there is a divisor."""

    span: Span
    dividend: SummedSeries
    divisor: SummedSeries | None
    unit: int


class Columns:
    """The features of aggregates, in the order of the aggregates and their spans."""

    def __init__(self, aggregates: Iterable[Aggregate]) -> None:
        self._columns = [_column(aggregate, span) for aggregate in aggregates for span in aggregate.spans]
        self.longest: dict[SummedSeries, int] = {}  # by series, the number of tiles that its longest window covers
        for column in self._columns:
            for series in filter(None, (column.dividend, column.divisor)):
                self.longest[series] = max(column.span.tiles, self.longest.get(series, 0))

    def evaluate(self, read: Callable[[SummedSeries], Entries], now_ms: Ints) -> NDArray[np.float32]:
        """The features (C, F) of C items at `now_ms` (C,); tiles outside of a window, which `read` may give, count nothing."""
        totals = {series: _Totals(read(series), series, longest, now_ms) for series, longest in self.longest.items()}
        values = np.empty((len(now_ms), len(self._columns)), np.float32)
        for index, column in enumerate(self._columns):
            dividends = totals[column.dividend].total(column.span) / column.unit
            if column.divisor:
                divisors = totals[column.divisor].total(column.span)
                dividends = np.divide(dividends, divisors, out=np.full(len(dividends), np.nan), where=divisors != 0)
            values[:, index] = dividends
        return values


def _column(aggregate: Aggregate, span: Span) -> Column:
    def series(event_types: Sequence[str], measure: Measure) -> SummedSeries:
        return SummedSeries(tuple(sorted(event_types)), measure, span.tile_ms)

    types = aggregate.event_types
    match aggregate.function:
        case "count":
            return Column(span, series(types, "events"), None, 1)
        case "sum":
            return Column(span, series(types, "sum"), None, VALUE_UNITS)
        case "mean":
            return Column(span, series(types, "sum"), series(types, "valued"), VALUE_UNITS)
        case "ratio":
            return Column(span, series(types, "events"), series(aggregate.over, "events"), 1)


class _Totals:
    """The weighted sums of one series, of C items."""

    def __init__(self, entries: Entries, series: SummedSeries, longest: int, now_ms: Ints) -> None:
        self._longest = longest
        now_tiles, passed_ms = np.divmod(now_ms, series.tile_ms)
        self._passed = passed_ms / series.tile_ms  # (C,) of the current tiles
        ages = self._clip(np.repeat(now_tiles, entries.lengths) - entries.tiles)
        ends = np.append(0, np.cumsum(entries.lengths))
        self._by_age = csr_array((entries.numbers, ages, ends), shape=(len(now_ms), longest + 1))
        self._partial_ages, self._partial = self._clip(now_tiles - entries.partial_tiles), entries.partial_numbers
        self._current = self._sum(np.eye(1, longest + 1)[0])

    def total(self, span: Span) -> Floats:
        """Σ number · weight (C,), see `reaseq.aggregates.evaluation.weight`.

        2^(−age / half-life) is a factor for the part of the current tile that has passed, and one for whole tiles.
        """
        earlier = self._sum(_weights(span, self._longest))
        if not span.half_life_ms:
            return earlier + self._current
        half_lives = self._passed * span.tile_ms / span.half_life_ms
        until_middle = span.tile_ms / 2 / span.half_life_ms
        total: Floats = earlier * np.exp2(-half_lives) + self._current * np.exp2(-np.maximum(0, half_lives - until_middle))
        return total

    def _sum(self, weights: Floats) -> Floats:
        """Σ number · weight (C,), with the weights (longest + 1,) by age."""
        sums: Floats = self._by_age @ weights + weights[self._partial_ages] * self._partial
        return sums

    def _clip(self, ages: Ints) -> Ints:
        """Ages in tiles; `longest`, which counts nothing, for what is older or to come."""
        return np.where((ages >= 0) & (ages < self._longest), ages, self._longest)


@cache
def _weights(span: Span, longest: int) -> Floats:
    """How much tiles of each age (longest + 1,) count when the current tile, which is left out, begins."""
    ages = np.arange(longest + 1)
    decayed = np.exp2(-(ages - 0.5) * span.tile_ms / span.half_life_ms) if span.half_life_ms else np.ones(longest + 1)
    weights: Floats = np.where((ages > 0) & (ages < span.tiles), decayed, 0.0)
    return weights
