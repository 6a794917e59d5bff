"""The history and inference stages: histories are immediate, inference is debounced, and neither blocks the other."""

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
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy
from streams.stages.behavior_inference import BehaviorInferenceStage
from streams.stages.history import HistoryStage

BATCH = BatchPolicy(100, 0)


def event(number: int, time_ms: int, user_id: str = "u") -> Event:
    return Event(event_id=f"e{number}", user_id=user_id, item_id=f"i{number}", type="view", event_time_ms=time_ms)


class MemoryUserStore:
    """A fake feature store: the newest record wins."""

    def __init__(self) -> None:
        self.users: dict[str, UserFeatures] = {}

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        return {user_id: self.users[user_id] for user_id in user_ids if user_id in self.users}

    def write(self, record: UserFeatures) -> None:
        stored = self.users.get(record.user_id)
        if stored is None or record.version > stored.version:
            self.users[record.user_id] = record


class Echo:
    """A fake behavior model: the answer is the requested history."""

    def __init__(self) -> None:
        self.requests: list[InferenceRequest] = []

    async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
        self.requests += requests
        return [
            Inferred(
                item_ids=request.history.item_ids,
                confidences=(1.0,) * len(request.history.item_ids),
                model="echo",
                as_of_ms=request.as_of_ms,
                events_seen=request.events_seen,
            )
            for request in requests
        ]


class NoAnswer:
    """A fake model that has no answer."""

    async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
        return [None] * len(requests)


class FakeItemTable:
    """Knows every item but the `unknown` ones. Items numbered 100 and up are unlike those below."""

    def __init__(self) -> None:
        self.unknown = {"i0"}

    def knows(self, item_id: str) -> bool:
        return item_id not in self.unknown

    def cosine(self, some: Sequence[str], others: Sequence[str]) -> float:
        kinds = {int(item_id[1:]) >= 100 for item_id in (*some, *others)}
        return 1.0 if len(kinds) <= 1 else -0.5


def erased_history(until_ms: int, request_ms: int) -> History:
    """The history of a user after an erasure request, the first record of its partition."""
    return History(forgotten_ms=until_ms, erasure_offset=0, erasure_produced_ms=request_ms)


class Stream:
    """Both stages over one store, with a topic between them."""

    def __init__(self, model: Echo | NoAnswer | None, policy: BehaviorSettings) -> None:
        self.store = MemoryUserStore()
        self.catalog = FakeItemTable()
        self.policy = policy
        self.history = HistoryStage(self.store, self.catalog, policy, BATCH)
        self.start_inference(model)
        self.topic: list[Message] = []

    def start_inference(self, model: Echo | NoAnswer | None) -> None:
        """Start the inference stage, or start it again, with nothing remembered."""
        self.inference = BehaviorInferenceStage(self.store, self.catalog, model, self.policy, BATCH)

    def onboard(self, item_id: str) -> None:
        """Let an item arrive."""
        self.catalog.unknown.discard(item_id)
        self.inference.items_arrived([item_id])

    def repeat(self) -> dict[str, int]:
        """Process the records that the inference stage asks for; returns the counts."""
        records = asyncio.run(self.inference.due_again())
        return self._run(self.inference, [Message(record.user_id, record, 0) for record in records])

    def absorb(self, arrivals: Sequence[Event]) -> dict[str, int]:
        """Process a batch of events; returns the counts."""
        return self._run(self.history, [Message(arrival.user_id, arrival, 0) for arrival in arrivals])

    def erase(self, user_id: str, at_ms: int, offset: int = 0) -> dict[str, int]:
        """Process an erasure request; returns the counts."""
        return self._run(self.history, [Message(user_id, None, at_ms, offset, at_ms)])

    def infer(self, count: int = 1_000_000) -> dict[str, int]:
        """Process the next records of the topic as a batch; returns the counts."""
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
@settings(max_examples=80)
def test_result_depends_on_neither_the_batches_nor_the_order_of_the_stages(
    arrivals: list[Event], batches: list[tuple[int, int]]
) -> None:
    policy = BehaviorSettings(history_limit_events=8)
    one, other = Stream(Echo(), policy), Stream(Echo(), policy)
    one.absorb(arrivals)
    remaining = list(arrivals)
    for absorbed, inferred in [*batches, (len(arrivals), 0)]:
        other.absorb(remaining[:absorbed])
        remaining = remaining[absorbed:]
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


def test_history_is_servable_before_inference() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 10)])
    assert stream.store.users["u"].history.item_ids == ("i1",) and not stream.store.users["u"].inferred.item_ids

    stream.infer()

    assert stream.store.users["u"].inferred == Inferred(
        item_ids=("i1",), confidences=(1.0,), model="echo", as_of_ms=10, events_seen=1
    )


def test_batch_infers_a_user_once_from_the_newest_record() -> None:
    model = Echo()
    stream = Stream(model, BehaviorSettings())
    for number in range(1, 10):
        stream.absorb([event(number, number)])

    assert stream.infer()["inferred"] == 1
    assert [request.events_seen for request in model.requests] == [9]


def test_superseded_record_is_skipped() -> None:
    model = Echo()
    stream = Stream(model, BehaviorSettings())
    stream.absorb([event(1, 1)])
    stream.absorb([event(2, 2)])

    assert stream.infer(1)["superseded"] == 1
    assert not model.requests
    stream.infer()
    assert [request.events_seen for request in model.requests] == [2]


def test_newest_record_of_a_batch_need_not_be_the_last() -> None:
    """A record inferred from an older history may come after a newer history in the topic."""
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


def test_inference_waits_for_min_new_events_and_min_interval() -> None:
    stream = Stream(Echo(), BehaviorSettings(min_new_events=3, min_interval_s=1.0))
    for number in range(20):
        stream.absorb([event(number, 1000 + number * 100)])
        stream.infer()

    user = stream.store.users["u"]

    assert user.events_seen == 20
    assert user.inferred.events_seen == 13  # the third event, then ten events later, a second by event time


def test_shift_of_interest_waits_for_the_interval_but_not_for_more_events() -> None:
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


def test_redelivered_batch_changes_nothing() -> None:
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


def test_answer_lost_in_a_crash_is_given_again() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 1)])
    request, users_before = stream.topic[0], dict(stream.store.users)
    stream.infer()
    users_after, stream.store.users = dict(stream.store.users), users_before

    stream.topic = [request, *stream.topic]  # neither was acknowledged, so both are redelivered
    stream.infer()

    assert stream.store.users == users_after


@pytest.mark.parametrize("model", [None, NoAnswer()])
def test_user_without_an_answer_has_only_a_history(model: NoAnswer | None) -> None:
    stream = Stream(model, BehaviorSettings())
    stream.absorb([event(1, 1)])
    stream.infer()

    user = stream.store.users["u"]
    assert user.history.item_ids == ("i1",) and user.inferred == Inferred()


def test_inferred_behaviors_stay_until_the_next_inference() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 1)])
    stream.infer()
    stream.absorb([event(2, 2)])

    user = stream.store.users["u"]
    assert user.history.item_ids == ("i1", "i2")
    assert user.inferred.item_ids == ("i1",) and user.inferred.events_seen == 1


def test_retraction_of_the_whole_history_removes_inferred_behaviors() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 1)])
    stream.infer()

    stream.absorb([msgspec.structs.replace(event(1, 1), retracted=True)])
    stream.infer()

    user = stream.store.users["u"]
    assert (user.history.item_ids, user.inferred) == ((), Inferred())


def test_answer_from_a_part_of_the_catalog_says_so_and_is_made_again_when_the_item_arrives() -> None:
    stream = Stream(Echo(), BehaviorSettings(min_interval_s=1000.0))
    stream.absorb([event(0, 2_000_000), event(1, 2_000_001)])
    assert stream.infer() == {"inferred": 1, "partial_catalog": 1, "superseded": 0}
    partial = stream.store.users["u"]
    assert partial.inferred.unknown_items == 1
    assert stream.infer() == stream.repeat() == {}, "nothing changes until the item arrives"

    stream.onboard("i0")
    assert stream.repeat() == {"inferred": 1, "partial_catalog": 0, "superseded": 0}

    complete = stream.store.users["u"]
    assert complete == msgspec.structs.replace(partial, inferred=msgspec.structs.replace(partial.inferred, unknown_items=0))
    assert complete.version > partial.version
    assert stream.repeat() == {}
    stream.infer()
    assert stream.store.users["u"] == complete


def test_restarted_stage_recalls_who_waits_from_the_store() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.catalog.unknown |= {"i1", "i2"}
    stream.absorb([event(1, 10), event(2, 10, "v")])
    stream.infer()
    stream.onboard("i1")

    stream.start_inference(Echo())
    stream.inference.recall([*stream.store.users.values()])
    stream.repeat()
    assert {user_id: user.inferred.unknown_items for user_id, user in stream.store.users.items()} == {"u": 0, "v": 1}

    stream.onboard("i2")
    stream.repeat()
    assert not stream.store.users["v"].inferred.unknown_items


def test_users_from_before_the_first_model_get_behaviors_without_a_new_event() -> None:
    stream = Stream(None, BehaviorSettings())
    stream.absorb([event(1, 10)])
    stream.infer()

    stream.start_inference(Echo())
    stream.inference.recall([*stream.store.users.values()])
    stream.repeat()

    assert stream.store.users["u"].inferred.item_ids == ("i1",)


@given(
    arrivals=arrivals_of_three,
    items=st.permutations(range(31)),
    steps=st.lists(st.sampled_from(["absorb", "onboard", "infer", "repeat", "restart"]), max_size=30),
)
@settings(max_examples=80)
def test_any_order_of_events_and_items_ends_as_if_the_items_had_come_first(
    arrivals: list[Event], items: list[int], steps: list[str]
) -> None:
    policy = BehaviorSettings(history_limit_events=8)
    expected, stream = Stream(Echo(), policy), Stream(Echo(), policy)
    expected.catalog.unknown.clear()
    expected.absorb(arrivals)
    expected.infer()
    stream.catalog.unknown |= {f"i{number}" for number in items}
    waiting, unlisted = list(arrivals), [f"i{number}" for number in items]
    for step in [*steps, *["absorb"] * len(waiting), *["onboard"] * len(unlisted), "restart"]:
        match step:
            case "absorb" if waiting:
                stream.absorb([waiting.pop(0)])
            case "onboard" if unlisted:
                stream.onboard(unlisted.pop(0))
            case "infer":
                stream.infer(2)
            case "repeat":
                stream.repeat()
            case "restart":
                stream.start_inference(Echo())
                stream.inference.recall([*stream.store.users.values()])
    while stream.topic or stream.repeat():
        stream.infer()

    assert stream.store.users == expected.store.users


def test_erased_user_stays_erased() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 10), event(2, 20), event(3, 15, "v")])
    stream.infer()
    others = stream.store.users["v"]

    counts = stream.erase("u", at_ms=50)
    stream.infer()

    erased = stream.store.users["u"]
    assert counts == {"users_forgotten": 1}
    assert (erased.history, erased.inferred) == (erased_history(50, request_ms=50), Inferred())
    assert stream.store.users["v"] == others
    assert stream.erase("u", at_ms=50) == {}  # redelivered
    assert stream.absorb([event(1, 10), event(4, 50)]) == {"forgotten": 2}  # late events
    stream.absorb([event(5, 60)])
    stream.infer()
    assert stream.erase("u", at_ms=50) == {}
    returned = stream.store.users["u"]
    assert returned.history.item_ids == returned.inferred.item_ids == ("i5",)


def test_erasure_request_covers_behaviors_ahead_of_the_clock() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 100)])

    stream.erase("u", at_ms=50)

    assert stream.store.users["u"].history == erased_history(100, request_ms=50)


def test_every_further_erasure_request_is_carried_out_whatever_the_clocks_say() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.absorb([event(1, 1000)])  # by a device whose clock is ahead
    stream.erase("u", at_ms=500, offset=1)
    for offset, at_ms in ((3, 600), (5, 400), (7, 600)):  # later by the log; the clock says later, earlier, the same time
        stream.absorb([event(offset, 2000 + offset)])
        assert stream.store.users["u"].history.item_ids
        before = stream.store.users["u"]

        assert stream.erase("u", at_ms, offset) == {"users_forgotten": 1}

        erased = stream.store.users["u"]
        assert not erased.history.item_ids and erased.version > before.version
        assert erased.history.forgotten_ms > before.history.forgotten_ms  # so the archive and dead letters are erased again
        for redelivered in ((1, 500), (3, 600), (offset, at_ms)):
            assert stream.erase("u", redelivered[1], offset=redelivered[0]) == {}


def test_erasure_request_after_partitions_were_added_is_carried_out() -> None:
    """The user's records are in another partition then, where offsets may be smaller."""
    stream = Stream(Echo(), BehaviorSettings())
    stream.erase("u", at_ms=500, offset=9000)
    stream.absorb([event(1, 600)])

    assert stream.erase("u", at_ms=700, offset=3) == {"users_forgotten": 1}
    assert not stream.store.users["u"].history.item_ids


def test_second_erasure_request_reaches_further_even_without_new_events() -> None:
    stream = Stream(Echo(), BehaviorSettings())
    stream.erase("u", at_ms=500, offset=1)
    stream.erase("u", at_ms=400, offset=2)

    assert stream.store.users["u"].history.forgotten_ms == 501


def test_unavailable_model_raises_and_nothing_is_written() -> None:
    class UnavailableModel:
        async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
            raise EndpointUnavailable("unavailable")

    stream = Stream(None, BehaviorSettings())
    stream.inference.model = UnavailableModel()
    stream.absorb([event(1, 1)])

    with pytest.raises(EndpointUnavailable):
        stream.infer()
    assert msgspec.structs.asdict(stream.store.users["u"])["inferred"] == Inferred()
