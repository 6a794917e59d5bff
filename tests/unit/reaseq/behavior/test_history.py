"""A user's history: the outcome depends on what was seen, not on how it arrived."""

from collections.abc import Sequence

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
def test_duplicates_and_order_of_arrival_do_not_show(events: list[Event], data: st.DataObject) -> None:
    arrivals = data.draw(
        st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=10) if events else st.just([])))
    )

    assert fold(arrivals).history() == fold(events).history()


@given(events=events, data=st.data())
def test_what_is_taken_back_is_gone_whenever_that_was(events: list[Event], data: st.DataObject) -> None:
    gone = data.draw(st.lists(st.sampled_from(events), unique=True)) if events else []
    arrivals = [*events, *(replace(event, retracted=True) for event in gone)]
    latest = sorted((event.event_time_ms, event_key(event.event_id), event in gone) for event in events)[-10:]

    folded = fold(data.draw(st.permutations([*arrivals, *arrivals[::2]])))
    again = HistoryFold(unpack_history(pack_history(folded.history())), 10)  # and after a restart
    assert {again.absorb(event) for event in events} <= {"duplicate", "too_late"}
    history = again.history()

    assert list(zip(history.times_ms, history.event_keys, strict=True)) == [of[:2] for of in latest if not of[2]]
    assert list(zip(history.retracted_ms, history.retracted_keys, strict=True)) == [of[:2] for of in latest if of[2]]
    assert again.newest_ms == max((event.event_time_ms for event in events), default=0)


@given(events=events)
def test_the_history_is_the_latest_events_in_order(events: list[Event]) -> None:
    wanted = sorted((e.event_time_ms, event_key(e.event_id)) for e in events)[-10:]

    history = fold(events).history()
    assert list(zip(history.times_ms, history.event_keys, strict=True)) == wanted


def test_each_event_is_told_what_became_of_it() -> None:
    folded = fold([event(1, 10), event(2, 20)], limit=2)

    assert folded.absorb(event(2, 20)) == "duplicate"
    assert folded.absorb(event(3, 5)) == "too_late"
    assert folded.absorb(event(4, 15)) == "accepted"
    assert folded.history().item_ids == ("i4", "i2")
