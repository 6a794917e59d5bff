"""The order of a user's records of one event time."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from reaseq.records import LEVELS, History, Inferred, UserFeatures, read_revision

COUNTS = st.integers(1, 2**44)


def record(events_seen: int, answered_events: int = 0, unknown_items: int = 0) -> UserFeatures:
    inferred = Inferred(events_seen=answered_events, unknown_items=unknown_items)
    return UserFeatures(user_id="u", event_time_ms=1, events_seen=events_seen, history=History(), inferred=inferred)


@given(COUNTS)
def test_more_events_come_before_an_answer_and_an_answer_from_more_of_the_catalog_before_one_from_less(events: int) -> None:
    in_order = [
        record(events),
        record(events, events, unknown_items=LEVELS + 100),
        record(events, events, unknown_items=2),
        record(events, events, unknown_items=1),
        record(events, events),
        record(events + 1, events),
    ]

    assert [one.version < other.version for one, other in pairwise(in_order)] == [True] * 5
    assert in_order[-1].revision < 2**53, "scripts in the store compare revisions as doubles"


@given(COUNTS, st.integers(0, LEVELS - 2))
def test_revision_holds_the_events_seen_and_what_the_answer_lacked(events: int, unknown_items: int) -> None:
    assert read_revision(record(events, events, unknown_items).revision) == (events, unknown_items)
    assert read_revision(record(events).revision) == (events, 0)


@given(st.integers(1, 2**30), st.booleans())
def test_revision_of_an_earlier_release_is_older_and_still_read(events: int, answered: bool) -> None:
    earlier = 2 * events + answered

    assert read_revision(earlier) == (events, 0)
    assert earlier < record(events).revision
