"""The aggregates of many items at once are those that `evaluate` gives for each, from records of the stream and from a log."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reaseq.aggregates import (
    BUILT_IN,
    Aggregate,
    AggregateTable,
    EventLog,
    LoggedAggregates,
    PartialRow,
    evaluate,
    kept_series,
    merge_tiles,
    pack_tiles,
    unpack_tiles,
)
from reaseq.aggregates.ragged import Ragged
from reaseq.days import DAY_MS
from reaseq.records import EVENT_TYPES, EventDelta, ItemAggregates

HOUR_MS = 3_600_000
NOW_MS = 1000 * DAY_MS + 5 * HOUR_MS + 17
ITEMS, SOURCES = 4, ("0", "1", "2:1of2")
AGGREGATES = (
    *BUILT_IN,
    Aggregate("views", "count", ("view", "click"), windows=("1h", "24h", "30d")),
    Aggregate("turnover", "sum", ("purchase",), windows=("7d",), half_lives=("1h",)),
    Aggregate("rating", "mean", ("purchase", "cart"), windows=("24h",), half_lives=("7d",)),
    Aggregate("conversion", "ratio", ("purchase",), over=("view",), windows=("30d",), half_lives=("30d",)),
)
KEPT = kept_series(AGGREGATES)
FEATURES = [span.feature for aggregate in AGGREGATES for span in aggregate.spans]

events = st.builds(
    EventDelta,
    source=st.sampled_from(SOURCES),
    offset=st.just(0),
    produced_ms=st.just(0),
    sign=st.just(1),
    item_id=st.integers(1, ITEMS).map(str),
    event_type=st.sampled_from(EVENT_TYPES),
    time_ms=st.integers(NOW_MS - 150 * DAY_MS, NOW_MS + 2 * HOUR_MS)
    | st.integers(NOW_MS - 3 * HOUR_MS, NOW_MS + 60_000)
    | st.integers(0, 140).map(lambda days: NOW_MS // DAY_MS * DAY_MS - days * DAY_MS),
    value=st.none() | st.integers(-(10**9), 10**9),
)
logs = st.lists(events, max_size=60)
moments = st.integers(NOW_MS - 40 * DAY_MS, NOW_MS + 40 * DAY_MS) | st.just(NOW_MS)


def fold(log: Sequence[EventDelta]) -> list[ItemAggregates]:
    """The records of all items and sources, as the stage folds them."""
    deltas: dict[tuple[str, str], list[EventDelta]] = defaultdict(list)
    for offset, event in enumerate(log):
        delta = event._replace(offset=offset, produced_ms=offset)
        deltas[event.item_id, event.source].append(delta)
    records = []
    for (item_id, source), of_part in deltas.items():
        row = PartialRow(item_id, source, None, KEPT)
        row.apply(of_part)
        records.append(row.record())
    return records


def apply(table: AggregateTable, records: Sequence[ItemAggregates]) -> None:
    table.apply([int(record.item_id) for record in records], records)


def expected(records: Sequence[ItemAggregates], rows: Sequence[int], now_ms: int) -> np.ndarray:
    values = []
    for row in rows:
        tiles = merge_tiles(unpack_tiles(record.tiles) for record in records if record.item_id == str(row))
        found = {name: value for aggregate in AGGREGATES for name, value in evaluate(aggregate, tiles, now_ms).items()}
        values.append([found[name] for name in FEATURES])
    return np.array(values)


def assert_equal(found: np.ndarray, right: np.ndarray) -> None:
    """To the precision of float32; sums of values cancel each other, so small ones are compared in units of the values."""
    np.testing.assert_allclose(found, right, rtol=2e-6, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(log=logs, more=logs, now_ms=moments)
def test_table_gives_what_evaluate_gives_before_and_after_rows_are_replaced(
    log: list[EventDelta], more: list[EventDelta], now_ms: int
) -> None:
    table, rows = AggregateTable(AGGREGATES), [2, 0, 4, 1, 3, 99]
    before, after = fold(log), fold([*log, *more])

    apply(table, before)
    assert_equal(table.evaluate(np.array(rows), now_ms), expected(before, rows, now_ms))
    apply(table, after)
    apply(table, [old for old in before if old.version < _newest(after, old).version])  # stale ones change nothing

    assert_equal(table.evaluate(np.array(rows), now_ms), expected(after, rows, now_ms))


def _newest(records: Sequence[ItemAggregates], of: ItemAggregates) -> ItemAggregates:
    return next(record for record in records if record.entity_id == of.entity_id)


@settings(max_examples=100, deadline=None)
@given(log=logs, now_ms=moments)
def test_log_gives_at_a_moment_what_evaluate_gives_over_the_events_before_it(log: list[EventDelta], now_ms: int) -> None:
    columns = EventLog(
        [event.item_id for event in log],
        np.array([event.time_ms for event in log], np.int64),
        np.array([EVENT_TYPES.index(event.event_type) for event in log], np.int64),
        np.array([event.value or 0 for event in log], np.int64),
        np.array([event.value is not None for event in log], bool),
    )
    rows, times = [3, 1, 0, 2, 4, 4], [now_ms, now_ms - DAY_MS, now_ms, now_ms, now_ms - 1, now_ms]
    logged = LoggedAggregates(AGGREGATES, columns, np.array([int(event.item_id) for event in log], np.int64))

    found = logged.evaluate(np.array(rows), np.array(times))

    for row, time_ms, values in zip(rows, times, found, strict=True):
        assert_equal(values, expected(fold([event for event in log if event.time_ms < time_ms]), [row], time_ms)[0])


def test_log_without_its_latest_events_keeps_the_weights_of_the_moment() -> None:
    log = EventLog.of_purchases(["1"] * 4, [NOW_MS - hours * HOUR_MS for hours in (1, 30, 31, 2000)])
    older = EventLog.of_purchases(["1"] * 2, [NOW_MS - 31 * HOUR_MS, NOW_MS - 2000 * HOUR_MS])
    rows = np.ones(1, np.int64)

    aged = LoggedAggregates(BUILT_IN, log, np.ones(4, np.int64)).evaluate(rows, NOW_MS, age_ms=30 * HOUR_MS)

    assert (aged == LoggedAggregates(BUILT_IN, older, np.ones(2, np.int64)).evaluate(rows, NOW_MS)).all() and aged.all()


def test_order_of_arrival_changes_no_bit() -> None:
    generator = np.random.default_rng(0)
    records = [_record(str(item), source, generator) for item in range(1, 20) for source in SOURCES]
    older = [_record(record.item_id, record.source, generator, event_time_ms=1) for record in records]
    rows = np.arange(20)

    tables = [AggregateTable(AGGREGATES) for _ in range(2)]
    apply(tables[0], records)
    for record in [*older, *reversed(records)]:
        apply(tables[1], [record])

    one, other = (table.evaluate(rows, NOW_MS) for table in tables)
    assert np.array_equal(one, other, equal_nan=True) and (one[1:, 0] > 0).all()


def _record(
    item_id: str, source: str, generator: np.random.Generator, event_time_ms: int = NOW_MS, tiles: int = 20
) -> ItemAggregates:
    packed = pack_tiles(
        {
            series: {int(NOW_MS // series.tile_ms - age): int(generator.integers(1, 9)) for age in range(tiles)}
            for series in KEPT
        }
    )
    return ItemAggregates(
        item_id=item_id,
        source=source,
        event_time_ms=event_time_ms,
        deltas=1,
        applied_offset=0,
        applied_ms=0,
        earlier_ms=-1,
        tiles=packed,
    )


def test_memory_follows_the_tiles_and_not_the_number_of_updates() -> None:
    generator = np.random.default_rng(0)
    table = AggregateTable(BUILT_IN)
    for version in range(1, 200):
        apply(table, [_record(str(item), "0", generator, event_time_ms=version) for item in range(1, 11)])

    tiles = 10 * 20 * 2  # of ten items, in two series
    assert table.nbytes < 10 * len(_record("1", "0", generator).tiles) * 1.2 + 12 * tiles * 5


def test_reader_keeps_its_version_while_rows_are_replaced() -> None:
    old = Ragged.empty(np.int64).replace(np.array([1, 3]), np.array([2, 1]), [np.array([10, 11, 30])])
    new = old.replace(np.array([3, 1]), np.array([0, 3]), [np.array([1, 2, 3])]).replace(
        np.array([7]), np.array([1]), [np.array([70])]
    )

    def read(ragged: Ragged) -> list[tuple[int, int]]:
        lengths, (values,) = ragged.read(np.array([3, 1, 0, 7, 1]))
        return list(zip(np.repeat(np.arange(5), lengths).tolist(), values.tolist(), strict=True))

    assert read(old) == [(0, 30), (1, 10), (1, 11), (4, 10), (4, 11)]
    assert read(new) == [(1, 1), (1, 2), (1, 3), (3, 70), (4, 1), (4, 2), (4, 3)]


def test_features_are_in_the_order_of_the_spans() -> None:
    log = EventLog.of_purchases(["1"], [NOW_MS - 2 * DAY_MS])
    values = LoggedAggregates(BUILT_IN, log, np.ones(1, np.int64)).evaluate(np.ones(1, np.int64), NOW_MS)[0]

    assert values == pytest.approx([2**-2, 2 ** (-2 / 7), 2 ** (-2 / 30)], rel=0.05)
