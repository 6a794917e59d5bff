"""A user's history and the behaviour stage: the outcome depends on what was seen, not on how it arrived."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from reaseq.behavior.history import HistoryFold, Question, event_key, history_of
from reaseq.records import Event, History, Inferred, UserFeatures
from reaseq.settings import BehaviorSettings
from streams.messages import Message
from streams.stage import BatchPolicy
from streams.stages.behavior import BehaviorStage


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

    assert fold(arrivals).snapshot() == fold(events).snapshot()


@given(events=events)
def test_the_history_is_the_latest_events_in_order(events: list[Event]) -> None:
    wanted = sorted((e.event_time_ms, event_key(e.event_id)) for e in events)[-10:]

    assert [(b.time_ms, b.event_key) for b in fold(events).snapshot()] == wanted


def test_each_event_is_told_what_became_of_it() -> None:
    folded = fold([event(1, 10), event(2, 20)], limit=2)

    assert folded.absorb(event(2, 20)) == "duplicate"
    assert folded.absorb(event(3, 5)) == "too_late"
    assert folded.absorb(event(4, 15)) == "accepted"
    assert [behavior.item_id for behavior in folded.snapshot()] == ["i4", "i2"]


class MemoryStore:
    """A stand-in for the feature store."""

    def __init__(self) -> None:
        self.users: dict[str, UserFeatures] = {}

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        return {user_id: self.users[user_id] for user_id in user_ids if user_id in self.users}


class Echo:
    """A stand-in for the behaviour model: its answer is the question."""

    def __init__(self) -> None:
        self.asked = 0

    def infer(self, questions: Sequence[Question]) -> list[Inferred]:
        self.asked += len(questions)
        return [
            Inferred(item_ids=q.history.item_ids, model="echo", as_of_ms=q.as_of_ms, events_seen=q.events_seen)
            for q in questions
        ]


class Everything:
    """A stand-in for the item table that knows every item but one."""

    def knows(self, item_id: str) -> bool:
        return item_id != "i0"


def run_stage(arrivals: Sequence[Event], cuts: Sequence[int], model: Echo | None, policy: BehaviorSettings) -> MemoryStore:
    store = MemoryStore()
    stage = BehaviorStage(store, Everything(), model, policy, BatchPolicy(100, 0))
    bounds = sorted({0, *(cut for cut in cuts if cut < len(arrivals)), len(arrivals)})
    for start, end in pairwise(bounds):
        batch = [Message(arrival.user_id, arrival, 0) for arrival in arrivals[start:end]]
        for record in asyncio.run(stage.process(batch)).records:
            assert isinstance(record, UserFeatures)
            store.users[record.user_id] = record
    return store


@given(
    arrivals=st.lists(
        st.builds(event, st.integers(0, 30), st.integers(0, 10_000), st.sampled_from("uvw")), min_size=1, max_size=40
    ),
    cuts=st.lists(st.integers(1, 40), max_size=6),
    least=st.integers(1, 4),
    interval_s=st.sampled_from([0.0, 1.0, 3.0]),
)
@settings(max_examples=60, deadline=None)
def test_how_the_events_were_batched_does_not_show(
    arrivals: list[Event], cuts: list[int], least: int, interval_s: float
) -> None:
    policy = BehaviorSettings(history_limit_events=8, min_new_events=least, min_interval_s=interval_s)

    assert run_stage(arrivals, cuts, Echo(), policy).users == run_stage(arrivals, range(40), Echo(), policy).users


def test_within_a_batch_a_user_is_inferred_once() -> None:
    model = Echo()

    run_stage([event(number, number) for number in range(10)], [], model, BehaviorSettings())

    assert model.asked == 1


def test_inference_waits_for_enough_new_events_and_time() -> None:
    policy = BehaviorSettings(min_new_events=3, min_interval_s=1.0)

    user = run_stage([event(n, 1000 + n * 100) for n in range(20)], range(20), Echo(), policy).users["u"]

    assert user.events_seen == 20
    assert user.inferred.events_seen == 13  # the third event, then ten events later, a second by event time


def test_a_redelivered_batch_changes_nothing() -> None:
    store = MemoryStore()
    stage = BehaviorStage(store, Everything(), Echo(), BehaviorSettings(), BatchPolicy(100, 0))
    batch = [Message("u", event(number, number), 0) for number in range(3)]
    (record,) = asyncio.run(stage.process(batch)).records
    assert isinstance(record, UserFeatures)
    store.users["u"] = record

    effects = asyncio.run(stage.process(batch))

    assert effects.records == []
    assert effects.counts["duplicate"] == 3
    assert effects.counts["unknown_item"] == 1


def test_without_a_model_there_are_histories_alone() -> None:
    user = run_stage([event(1, 1)], [], None, BehaviorSettings()).users["u"]

    assert user.history == history_of(fold([event(1, 1)]).snapshot())
    assert user.inferred == Inferred()
