"""The delivery guarantee as a property: with duplicates, late records and crashes, the store ends in the same state as if every
record had arrived once and in order.

Runs all stages on an in-memory log and store. As in Kafka, records of one key stay in the order in which they were produced.
Items rely on that order; events do not, so the test shuffles them. Late feature records of a zombie, a worker that was evicted
from the group, may land at any time.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from reaseq.declaration import Declaration
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.records import EARLIEST_TIME_MS, Event, FeatureRecord, Item, ItemFeatures, ProductKnowledge, UserFeatures
from reaseq.settings import BehaviorSettings
from streams.delivery.delivery import Delivery
from streams.delivery.messages import RawRecord, encode
from streams.delivery.stage import BatchPolicy, Stage
from streams.delivery.topics import DEAD_LETTERS, EVENTS, ITEM_FEATURES, USER_FEATURES
from streams.stages.archive import ArchiveStage
from streams.stages.behavior_inference import BehaviorInferenceStage
from streams.stages.history import HistoryStage
from streams.stages.onboarding import OnboardingStage
from streams.stages.reasoning import ReasoningStage
from tests.unit.streams.stages.test_user_stages import Echo, FakeItemTable

BATCH = BatchPolicy(100, 0)
HISTORY_LIMIT = 5  # small enough that some behaviors are dropped
ERASURE_MS = EARLIEST_TIME_MS + 9
ERASURE_REQUEST = RawRecord(EVENTS.name, b"u", None, ERASURE_MS)
CRASHES = ("", "before produce", "after produce", "before write", "after write")


class Crash(Exception):
    """The worker crashes."""


class World:
    """An in-memory log and store. Raises Crash at the point `crash_at`."""

    max_message_bytes = 1_000_000

    def __init__(self) -> None:
        self.topics: dict[str, list[RawRecord]] = defaultdict(list)
        self.stored: dict[tuple[type, str], FeatureRecord] = {}
        self.crash_at = ""

    async def produce(self, records: Sequence[RawRecord]) -> None:
        self._crash("before produce")
        for record in records:
            self.topics[record.topic].append(record)
        self._crash("after produce")

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        self._crash("before write")
        stale = []
        for record in records:
            stored = self.stored.get(_entity(record))
            if stored is None or _order(record) > _order(stored):
                self.stored[_entity(record)] = record
            elif _order(record) < _order(stored):
                stale.append(record)
        self._crash("after write")
        return stale

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return [r for r in records if _entity(r) not in self.stored or _order(r)[:2] >= _order(self.stored[_entity(r)])[:2]]

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return [self.stored[_entity(record)] for record in records]

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        return {u: stored for u in user_ids if isinstance(stored := self.stored.get((UserFeatures, u)), UserFeatures)}

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        return {i: stored for i in item_ids if isinstance(stored := self.stored.get((ItemFeatures, i)), ItemFeatures)}

    def land_late(self, number: int) -> None:
        """A zombie's produce of a feature record lands, whatever the topic holds by now."""
        features = self.topics[ITEM_FEATURES.name] + self.topics[USER_FEATURES.name]
        if features:
            late = features[number % len(features)]
            self.topics[late.topic].append(late)

    def _crash(self, point: str) -> None:
        if self.crash_at == point:
            raise Crash


class NoArchive:
    """A fake archive that keeps nothing."""

    def append(self, records: Sequence[FeatureRecord]) -> None:
        pass

    def compact(self) -> int:
        return 0

    def erasure_requests(self, records: Sequence[FeatureRecord]) -> dict[str, int]:
        return {}


class LetterCountEncoder:
    """A fake encoder: counts the letters a to d in a text."""

    space_id = "letters"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[text.count(letter) + 1 for letter in "abcd"] for text in texts], np.float32).reshape(-1, 4)


class EchoReasoner:
    """A fake reasoner: the profile is the item's title."""

    identity = "echo"

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> list[ProductKnowledge | None]:
        return [ProductKnowledge(vocabulary="v", claims=(), profile=item.content.title) for item in items]


@dataclass(frozen=True)
class Step:
    """A zombie's record lands; then a worker processes a batch of a stage, which may repeat earlier records, and may crash."""

    stage: int
    records: int
    repeated: int
    crash: str  # one of CRASHES
    late: int | None = None  # which feature record lands again, modulo their number; None for none


class Worker:
    """All stages, and the offset that each has committed in its topic."""

    def __init__(self, world: World) -> None:
        self.world = world
        policy = BehaviorSettings(history_limit_events=HISTORY_LIMIT)
        stages: tuple[Stage, ...] = (
            OnboardingStage(world, LetterCountEncoder(), Declaration(), BATCH),
            ReasoningStage(world, EchoReasoner(), LetterCountEncoder(), "v", BATCH),
            HistoryStage(world, FakeItemTable(), policy, BATCH),
            BehaviorInferenceStage(world, FakeItemTable(), Echo(), policy, BATCH),
            *(ArchiveStage(topic, NoArchive(), world, BATCH, lambda users: None) for topic in (ITEM_FEATURES, USER_FEATURES)),
        )
        self.deliveries = [Delivery(stage, world, world, 300.0) for stage in stages]
        self.committed = [0] * len(stages)

    def run(self, step: Step) -> bool:
        """Run one step; returns whether there was a new record."""
        if step.late is not None:
            self.world.land_late(step.late)
        topic = self.world.topics[self.deliveries[step.stage].stage.source.name]
        start = self.committed[step.stage]
        end = min(start + step.records, len(topic))
        batch, self.world.crash_at = topic[max(0, start - step.repeated) : end], step.crash
        if batch:
            try:
                asyncio.run(self.deliveries[step.stage].handle(batch))
                self.committed[step.stage] = end
            except Crash:
                pass
        return end > start

    def finish(self) -> None:
        """Process everything that is left."""
        while any([self.run(Step(stage, 3, 0, "")) for stage in range(len(self.deliveries))]):
            pass


items = st.lists(st.tuples(st.sampled_from("xyz"), st.text("abcd ", min_size=1, max_size=6)), max_size=8)


def events(ids: str, times_ms: st.SearchStrategy[int]) -> st.SearchStrategy[list[Event]]:
    """Events of two users, with unique ids."""
    one = st.builds(
        Event,
        event_id=st.integers(0, 40).map(ids.format),
        user_id=st.sampled_from("uv"),
        item_id=st.sampled_from(["i1", "i2"]),
        type=st.just("view"),
        event_time_ms=times_ms,
    )
    return st.lists(one, max_size=14, unique_by=lambda event: event.event_id)


steps = st.lists(
    st.builds(
        Step,
        st.integers(0, 5),
        st.integers(1, 4),
        st.integers(0, 6),
        st.sampled_from(CRASHES),
        st.none() | st.integers(0, 1000),
    ),
    max_size=40,
)


@given(
    listings=items,
    before=events("e{}", st.integers(EARLIEST_TIME_MS, ERASURE_MS)),
    after=events("l{}", st.integers(ERASURE_MS + 1, ERASURE_MS + 9)),
    erasure=st.booleans(),
    steps=steps,
    data=st.data(),
)
@settings(max_examples=80)
def test_store_ends_as_if_every_record_had_arrived_once_and_in_order(
    listings: list[tuple[str, str]],
    before: list[Event],
    after: list[Event],
    erasure: bool,
    steps: list[Step],
    data: st.DataObject,
) -> None:
    retracted = [replace(event, retracted=True) for event in before[1::3]]
    listed = enumerate(listings, EARLIEST_TIME_MS)
    catalog = [Item(item_id=key, title=title, event_time_ms=time_ms) for time_ms, (key, title) in listed]
    requests = [ERASURE_REQUEST] * erasure
    arrivals: list[Event | RawRecord] = list(data.draw(st.permutations(before + before[::2] + retracted)))  # with duplicates
    split = data.draw(st.integers(0, len(arrivals)))
    late = arrivals[split:]  # produced after the erasure request, among later events
    reference, world = World(), World()
    _produce(reference, [*catalog, *sorted(before, key=_time), *retracted, *requests, *sorted(after, key=_time)])
    _produce(world, [*catalog, *catalog[::3], *arrivals[:split], *requests, *data.draw(st.permutations([*late, *after]))])

    Worker(reference).finish()
    worker = Worker(world)
    for step in steps:
        worker.run(step)
    worker.finish()
    for number in data.draw(st.lists(st.integers(0, 1000), max_size=3)):
        world.land_late(number)
    worker.finish()

    assert not world.topics[DEAD_LETTERS.name]
    full = {user for user in "uv" if sum(event.user_id == user for event in before + after) > HISTORY_LIMIT}
    uncounted = full | set("u" * erasure) | {event.user_id for event in retracted}
    assert _values(world, uncounted) == _values(reference, uncounted)
    for entity, stored in world.stored.items():  # and each compacted topic ends with the stored record
        topic = world.topics["item-features" if entity[0] is ItemFeatures else "user-features"]
        last = [raw for raw in topic if raw.key == entity[1].encode()][-1]
        assert msgspec.json.decode(last.value or b"", type=entity[0]) == stored


def _values(world: World, uncounted: set[str]) -> dict[tuple[type, str], FeatureRecord]:
    """The stored records, with `events_seen` set to 0 for `uncounted` users, where it depends on the order of arrival.

    These users have a full history, an erasure request or a retracted event, so a late event may or may not be counted. The
    offset of an erasure request depends on it as well.
    """
    return {
        entity: replace(
            stored,
            events_seen=0,
            history=replace(stored.history, erasure_offset=-1),
            inferred=replace(stored.inferred, events_seen=0),
        )
        if isinstance(stored, UserFeatures) and stored.user_id in uncounted
        else stored
        for entity, stored in world.stored.items()
    }


def _time(event: Event) -> tuple[int, str]:
    return event.event_time_ms, event.event_id


def _produce(world: World, records: Sequence[Item | Event | RawRecord]) -> None:
    for record in records:
        raw = record if isinstance(record, RawRecord) else encode(record, 1)
        world.topics[raw.topic].append(raw._replace(offset=len(world.topics[raw.topic])))


def _entity(record: FeatureRecord) -> tuple[type, str]:
    return type(record), record.entity_id


def _order(record: FeatureRecord) -> tuple[int, int, bytes]:
    return record.event_time_ms, record.revision, blake2b(msgspec.json.encode(record)).digest()
