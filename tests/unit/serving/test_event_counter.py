"""The ranking service's count of events: in any order of arrival, and only what the history stage accepts."""

import time

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reaseq.ranker.popularity import Popularity
from reaseq.records import Event
from reaseq.representation.item_table import ItemTable
from serving.event_counter import EventCounter
from streams.delivery.messages import RawRecord, encode
from tests.fakes.catalog import NOW_MS, build_table, item

ITEMS = 4


def record(number: int, item_id: str, time_ms: int = NOW_MS, **changes: object) -> RawRecord:
    event = Event(event_id=f"e{number}", user_id=f"u{number}", item_id=item_id, type="purchase", event_time_ms=time_ms)
    return encode(msgspec.structs.replace(event, **changes), NOW_MS)


def counter(table: ItemTable, popularity: Popularity, waiting_limit_events: int = 100) -> EventCounter:
    return EventCounter(popularity, table, 300.0, waiting_limit_events)


def onboard(table: ItemTable, events: EventCounter, number: int) -> None:
    table.apply([item(number)])
    events.items_arrived([f"i{number}"])


def counts(table: ItemTable, popularity: Popularity, *numbers: int) -> list[float]:
    rows = table.snapshot.rows([f"i{number}" for number in numbers]).numpy()
    return [float(count) for count in popularity.counts(rows, NOW_MS)[:, 0]]


DELIVERED = [("event", number) for number in (*range(12), *range(5))]  # some twice


@given(st.permutations([*range(ITEMS), *DELIVERED]))
def test_counts_do_not_depend_on_whether_an_event_or_its_item_arrives_first(arrivals: list[int | tuple[str, int]]) -> None:
    table, popularity = build_table(), Popularity()
    events = counter(table, popularity)
    for arrival in arrivals:
        if isinstance(arrival, int):
            onboard(table, events, arrival)
        else:
            events.count([record(arrival[1], f"i{arrival[1] % ITEMS}")])

    assert counts(table, popularity, *range(ITEMS)) == [3.0] * ITEMS


def test_events_of_the_item_that_has_waited_longest_are_dropped_first() -> None:
    table, popularity = build_table(), Popularity()
    events = counter(table, popularity, waiting_limit_events=3)
    events.count([record(0, "i0"), record(1, "i1"), record(2, "i0"), record(3, "i1")])
    for number in range(2):
        onboard(table, events, number)

    assert counts(table, popularity, 0, 1) == [0.0, 2.0]


def test_what_the_history_stage_refuses_does_not_count() -> None:
    table, popularity = build_table(item(0)), Popularity()
    events = counter(table, popularity)
    now_ms = int(time.time() * 1000)
    valid = record(1, "i0")
    events.count(
        [
            record(0, "i0", now_ms + 600_000),
            record(0, "i0", retracted=True),
            valid._replace(key=b"another user"),
            valid._replace(value=b"{"),
            valid._replace(value=None),
        ]
    )
    assert counts(table, popularity, 0) == [0.0] and events.active_users() == []

    events.count([valid])
    assert np.allclose(counts(table, popularity, 0), 1.0) and events.active_users() == ["u1"]
