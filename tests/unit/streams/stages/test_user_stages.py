"""The two stages over users: histories at once, inferences when they are worth it, and neither in the way of the other."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reaseq.behavior.history import HistoryFold, InferenceRequest
from reaseq.errors import EndpointUnavailable
from reaseq.records import Event, History, Inferred, UserFeatures
from reaseq.settings import BehaviorSettings
from streams.contract.messages import Message
from streams.contract.stage import BatchPolicy
from streams.stages.behavior_inference import BehaviorInferenceStage
from streams.stages.history import HistoryStage

BATCH = BatchPolicy(100, 0)


def event(number: int, time_ms: int, user_id: str = "u") -> Event:
    return Event(event_id=f"e{number}", user_id=user_id, item_id=f"i{number}", type="view", event_time_ms=time_ms)


class MemoryStore:
    """A stand-in for the feature store: the newest wins."""

    def __init__(self) -> None:
        self.users: dict[str, UserFeatures] = {}

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        return {user_id: self.users[user_id] for user_id in user_ids if user_id in self.users}

    def write(self, record: UserFeatures) -> None:
        held = self.users.get(record.user_id)
        if held is None or (record.event_time_ms, record.revision) > (held.event_time_ms, held.revision):
            self.users[record.user_id] = record


class Echo:
    """A stand-in for the behavior model: its answer is the request."""

    def __init__(self) -> None:
        self.asked: list[InferenceRequest] = []

    async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
        self.asked += requests
        return [
            Inferred(item_ids=q.history.item_ids, model="echo", as_of_ms=q.as_of_ms, events_seen=q.events_seen)
            for q in requests
        ]


class Nobody:
    """A stand-in for a model that has no answer."""

    async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
        return [None] * len(requests)


class Everything:
    """A stand-in for the item table: it knows every item but one, and items 100 and up are unlike all others."""

    def knows(self, item_id: str) -> bool:
        return item_id != "i0"

    def cosine(self, some: Sequence[str], others: Sequence[str]) -> float:
        kinds = {int(item_id[1:]) >= 100 for item_id in (*some, *others)}
        return 1.0 if len(kinds) <= 1 else -0.5


class Stream:
    """Both stages over one store, a topic between them."""

    def __init__(self, model: Echo | Nobody | None, policy: BehaviorSettings) -> None:
        self.store = MemoryStore()
        self.behavior = HistoryStage(self.store, Everything(), policy, BATCH)
        self.inference = BehaviorInferenceStage(self.store, Everything(), model, policy, BATCH)
        self.topic: list[Message] = []

    def absorb(self, arrivals: Sequence[Event]) -> dict[str, int]:
        """A batch of events; says what was counted."""
        return self._run(self.behavior, [Message(arrival.user_id, arrival, 0) for arrival in arrivals])

    def forget(self, user_id: str, at_ms: int) -> dict[str, int]:
        """A user's wish to be forgotten."""
        return self._run(self.behavior, [Message(user_id, None, at_ms)])

    def infer(self, count: int = 1_000_000) -> dict[str, int]:
        """A batch of the next records of the topic."""
        batch, self.topic = self.topic[:count], self.topic[count:]
        return self._run(self.inference, batch)

    def _run(self, stage: HistoryStage | BehaviorInferenceStage, batch: list[Message]) -> dict[str, int]:
        effects = asyncio.run(stage.process(batch))
        for record in effects.records:
            assert isinstance(record, UserFeatures)
            self.topic.append(Message(record.user_id, record, 0))
            self.store.write(record)
        return dict(effects.counts)


arrivals_of_three = st.lists(
    st.builds(event, st.integers(0, 30), st.integers(0, 10_000), st.sampled_from("uvw")), min_size=1, max_size=40
)


@given(arrivals=arrivals_of_three, batches=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=12))
@settings(max_examples=80, deadline=None)
def test_how_records_were_batched_and_stages_took_turns_does_not_show(
    arrivals: list[Event], batches: list[tuple[int, int]]
) -> None:
    policy = BehaviorSettings(history_limit_events=8)
    one, other = Stream(Echo(), policy), Stream(Echo(), policy)
    one.absorb(arrivals)
    left = list(arrivals)
    for taken, inferred in [*batches, (len(arrivals), 0)]:
        other.absorb(left[:taken])
        left = left[taken:]
        other.infer(inferred)
    for stream in (one, other):
        while stream.topic:
            stream.infer()

    assert one.store.users == other.store.users
    for user_id, user in one.store.users.items():
        fold = HistoryFold(History(), 8)
        for arrival in arrivals:
            if arrival.user_id == user_id:
                fold.absorb(arrival)
        assert user.history == fold.history()
        assert user.inferred.events_seen == user.events_seen


def test_a_history_is_there_before_anything_is_inferred_from_it() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 10)])
    assert stream.store.users["u"].history.item_ids == ("i1",) and not stream.store.users["u"].inferred.item_ids

    stream.infer()

    assert stream.store.users["u"].inferred == Inferred(item_ids=("i1",), model="echo", as_of_ms=10, events_seen=1)


def test_within_a_batch_a_user_is_inferred_once_from_the_newest_record() -> None:
    model = Echo()
    stream = Stream(model, BehaviorSettings())
    for number in range(1, 10):
        stream.absorb([event(number, number)])

    assert stream.infer()["inferred"] == 1
    assert [request.events_seen for request in model.asked] == [9]


def test_a_record_that_was_overtaken_is_left_to_the_newer_one() -> None:
    model = Echo()
    stream = Stream(model, BehaviorSettings())
    stream.absorb([event(1, 1)])
    stream.absorb([event(2, 2)])

    assert stream.infer(1)["superseded"] == 1
    assert not model.asked
    stream.infer()
    assert [request.events_seen for request in model.asked] == [2]


def test_the_newest_record_of_a_batch_need_not_be_its_last() -> None:
    """What was inferred from an older record may stand in the topic behind a newer history."""
    model = Echo()
    stream = Stream(model, BehaviorSettings())
    stream.absorb([event(1, 1)])
    older = Stream(Echo(), BehaviorSettings())
    older.absorb([event(1, 1)])
    older.infer()
    stream.absorb([event(2, 2)])
    stream.topic.append(older.topic[-1])

    stream.infer()

    assert stream.store.users["u"].inferred.events_seen == 2


def test_inference_waits_for_enough_new_events_and_time() -> None:
    stream = Stream(Echo(), BehaviorSettings(min_new_events=3, min_interval_s=1.0))
    for number in range(20):
        stream.absorb([event(number, 1000 + number * 100)])
        stream.infer()

    user = stream.store.users["u"]

    assert user.events_seen == 20
    assert user.inferred.events_seen == 13  # the third event, then ten events later, a second by event time


def test_a_shift_of_interest_is_not_made_to_wait_for_more_events_but_for_the_interval() -> None:
    stream = Stream(Echo(), BehaviorSettings(min_new_events=5, min_interval_s=1.0))
    for number in range(5):
        stream.absorb([event(number, 1000 + number)])
    stream.infer()
    assert stream.store.users["u"].inferred.events_seen == 5

    stream.absorb([event(100, 1500)])
    stream.infer()
    assert stream.store.users["u"].inferred.events_seen == 5  # within the interval
    stream.absorb([event(101, 2500)])
    stream.infer()
    assert stream.store.users["u"].inferred.events_seen == 7


def test_a_redelivered_batch_changes_nothing() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    batch = [event(number, number) for number in range(3)]
    assert stream.absorb(batch) == {"accepted": 3, "unknown_item": 1}
    record = stream.topic[0]
    stream.infer()
    before = dict(stream.store.users)

    assert stream.absorb(batch) == {"duplicate": 3, "unknown_item": 1}
    stream.topic = [record]
    assert stream.infer()["superseded"] == 1
    assert stream.store.users == before


def test_an_answer_that_a_crash_kept_out_of_the_store_is_given_again() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 1)])
    request, without = stream.topic[0], dict(stream.store.users)
    stream.infer()
    after, stream.store.users = dict(stream.store.users), without

    stream.topic = [request, *stream.topic]  # neither was acknowledged, so both come again
    stream.infer()

    assert stream.store.users == after


@pytest.mark.parametrize("model", [None, Nobody()])
def test_without_an_answer_there_are_histories_alone(model: Nobody | None) -> None:
    stream = Stream(model, BehaviorSettings())
    stream.absorb([event(1, 1)])
    stream.infer()

    user = stream.store.users["u"]
    assert user.history.item_ids == ("i1",) and user.inferred == Inferred()


def test_what_was_inferred_stays_until_it_is_inferred_anew() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 1)])
    stream.infer()
    stream.absorb([event(2, 2)])

    user = stream.store.users["u"]
    assert user.history.item_ids == ("i1", "i2")
    assert user.inferred.item_ids == ("i1",) and user.inferred.events_seen == 1


def test_a_user_who_asks_to_be_forgotten_is_and_stays_forgotten() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 10), event(2, 20), event(3, 15, "v")])
    stream.infer()
    others = stream.store.users["v"]

    counts = stream.forget("u", at_ms=50)
    stream.infer()

    left = stream.store.users["u"]
    assert counts == {"users_forgotten": 1}
    assert (left.history, left.inferred) == (History(forgotten_ms=50), Inferred())
    assert stream.store.users["v"] == others
    assert stream.forget("u", at_ms=50) == {}  # delivered again
    assert stream.absorb([event(1, 10), event(4, 50)]) == {"forgotten": 2}  # and whatever comes late
    stream.absorb([event(5, 60)])
    stream.infer()
    assert stream.forget("u", at_ms=50) == {}
    back = stream.store.users["u"]
    assert back.history.item_ids == back.inferred.item_ids == ("i5",)


def test_a_wish_to_be_forgotten_reaches_behaviors_that_are_ahead_of_the_clock() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 100)])

    stream.forget("u", at_ms=50)

    assert stream.store.users["u"].history == History(forgotten_ms=100)


def test_a_model_that_is_away_is_waited_for_with_nothing_written() -> None:
    class Away:
        async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
            raise EndpointUnavailable("away")

    stream = Stream(None, BehaviorSettings())
    stream.inference.model = Away()
    stream.absorb([event(1, 1)])

    with pytest.raises(EndpointUnavailable):
        stream.infer()
    assert msgspec.structs.asdict(stream.store.users["u"])["inferred"] == Inferred()
