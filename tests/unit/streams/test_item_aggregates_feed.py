"""Aggregates count in any order in which they and their items arrive, and what waits is bounded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reaseq.aggregates import BUILT_IN, AggregateTable, PartialRow, kept_series
from reaseq.records import EventDelta, ItemAggregates
from reaseq.representation.item_table import ItemTable
from streams.delivery.messages import encode
from streams.item_aggregates_feed import ItemAggregatesFeed
from tests.fakes.catalog import NOW_MS, build_table, item

ITEMS, SOURCES = 3, ("0", "1")


class Reader:
    """A feed with its tables, as a ranking service has them."""

    def __init__(self, waiting_limit: int = 100) -> None:
        self.items: ItemTable = build_table()
        self._aggregates = AggregateTable(BUILT_IN)
        self.feed = ItemAggregatesFeed(self._aggregates, self.items, waiting_limit)

    def onboard(self, number: int) -> None:
        self.items.apply([item(number)])
        self.feed.items_arrived([f"i{number}"])

    def counts(self) -> list[float]:
        rows = self.items.snapshot.rows([f"i{number}" for number in range(ITEMS)]).numpy()
        return [round(float(count), 3) for count in self._aggregates.evaluate(rows, NOW_MS)[:, 2]]


def record(number: int, source: str, events: int) -> ItemAggregates:
    """The row after the first `events` of one item and source, of which the later ones are newer."""
    row = PartialRow(f"i{number}", source, None, kept_series(BUILT_IN))
    deltas = [EventDelta(source, n, n, 1, f"i{number}", "view", NOW_MS - 100 + n, None) for n in range(events)]
    row.apply(deltas)
    return row.record()


ARRIVALS = [
    *range(ITEMS),
    *(record(number, source, events) for number in range(ITEMS) for source in SOURCES for events in (1, 4)),
]


@given(st.permutations(ARRIVALS))
def test_counts_do_not_depend_on_the_order_in_which_records_and_items_arrive(arrivals: list[int | ItemAggregates]) -> None:
    reader = Reader()
    for arrival in arrivals:
        if isinstance(arrival, int):
            reader.onboard(arrival)
        else:
            reader.feed.apply_records([encode(arrival, NOW_MS)])

    assert reader.counts() == pytest.approx([8.0] * ITEMS, rel=0.05) and len(set(reader.counts())) == 1


def test_records_of_the_item_that_has_waited_longest_are_dropped_first() -> None:
    reader = Reader(waiting_limit=3)
    reader.feed.apply([record(0, "0", 1), record(1, "0", 1), record(0, "1", 1), record(1, "0", 4), record(1, "1", 4)])
    for number in range(2):
        reader.onboard(number)

    assert np.sign(reader.counts()).tolist() == [0, 1, 0]


def test_unreadable_record_and_tombstone_change_nothing() -> None:
    reader = Reader()
    reader.onboard(0)
    good = encode(record(0, "0", 4), NOW_MS)
    reader.feed.apply_records([good, good._replace(value=None), good._replace(value=b"{"), good._replace(key=b"1/i0")])

    assert reader.counts() == pytest.approx([4.0, 0, 0], rel=0.05)
