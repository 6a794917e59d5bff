"""Histories: the outcome depends on the events, not on their order of arrival."""

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from features.array_codec import pack_history, unpack_history
from reaseq.behavior.history import HistoryFold, event_key
from reaseq.records import Event, History


def event(number: int, time_ms: int, user_id: str = "u") -> Event:
    return Event(event_id=f"e{number}", user_id=user_id, item_id=f"i{number}", type="view", event_time_ms=time_ms)


events = st.lists(st.builds(event, st.integers(0, 30), st.integers(0, 8)), max_size=40, unique_by=lambda e: e.event_id)


def fold(arrivals: Sequence[Event], limit: int = 10) -> HistoryFold:
    folded = HistoryFold(History(), limit)
    for arrival in arrivals:
        folded.absorb(arrival)
    return folded


@given(events=events, data=st.data())
def test_history_ignores_duplicates_and_order_of_arrival(events: list[Event], data: st.DataObject) -> None:
    arrivals = data.draw(
        st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=10) if events else st.just([])))
    )

    assert fold(arrivals).history() == fold(events).history()


@given(events=events, data=st.data())
def test_retracted_events_are_removed_in_any_order_of_arrival(events: list[Event], data: st.DataObject) -> None:
    retracted = data.draw(st.lists(st.sampled_from(events), unique=True)) if events else []
    arrivals = [*events, *(replace(event, retracted=True) for event in retracted)]
    latest = sorted((event.event_time_ms, event_key(event.event_id), event in retracted) for event in events)[-10:]

    folded = fold(data.draw(st.permutations([*arrivals, *arrivals[::2]])))
    restarted = HistoryFold(unpack_history(pack_history(folded.history())), 10)
    assert {restarted.absorb(event) for event in events} <= {"duplicate", "too_late"}
    history = restarted.history()

    kept = [(time_ms, key) for time_ms, key, is_retracted in latest if not is_retracted]
    removed = [(time_ms, key) for time_ms, key, is_retracted in latest if is_retracted]
    assert list(zip(history.times_ms, history.event_keys, strict=True)) == kept
    assert list(zip(history.retracted_ms, history.retracted_keys, strict=True)) == removed
    assert restarted.newest_ms == max((event.event_time_ms for event in events), default=0)


@given(events=events)
def test_history_is_the_latest_events_in_order(events: list[Event]) -> None:
    latest = sorted((e.event_time_ms, event_key(e.event_id)) for e in events)[-10:]

    history = fold(events).history()
    assert list(zip(history.times_ms, history.event_keys, strict=True)) == latest


def test_absorb_returns_the_outcome_of_each_event() -> None:
    folded = fold([event(1, 10), event(2, 20)], limit=2)

    assert folded.absorb(event(2, 20)) == "duplicate"
    assert folded.absorb(event(3, 5)) == "too_late"
    assert folded.absorb(event(4, 15)) == "accepted"
    assert folded.history().item_ids == ("i4", "i2")


def test_erasure_request_does_not_change_the_rows_of_other_users() -> None:
    """A row is compared byte for byte with its record, so an older row must equal what is packed now."""
    row = pack_history(fold([event(1, 10)]).history())

    assert len(msgspec.msgpack.decode(row)) == 7
    erased = History(forgotten_ms=5, erasure_offset=0, erasure_produced_ms=3)
    assert unpack_history(pack_history(erased)) == erased
