"""The promise of delivery as a property: however records come, come twice, or come late, and wherever workers die, the store
ends as if each had come once and in order.

All stages over a log and a store in memory. What Kafka promises holds here too: records of one key stay in the order in which
they were produced. Items rely on it; events do not, so they are shuffled.
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

from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.records import Event, FeatureRecord, Item, ItemFeatures, ProductKnowledge, UserFeatures
from reaseq.settings import BehaviorSettings
from streams.contract.delivery import Delivery
from streams.contract.messages import RawRecord, encode
from streams.contract.stage import BatchPolicy, Stage
from streams.contract.topics import DEAD_LETTERS, EVENTS
from streams.stages.behavior_inference import BehaviorInferenceStage
from streams.stages.history import HistoryStage
from streams.stages.onboarding import OnboardingStage
from streams.stages.reasoning import ReasoningStage
from tests.unit.streams.stages.test_user_stages import Echo, Everything

BATCH = BatchPolicy(100, 0)
LIMIT = 5  # behaviors that a history keeps, so that some do not fit in
WISH_MS = 9  # when a user asks to be forgotten
FORGET = RawRecord(EVENTS.name, b"u", None, WISH_MS)
CRASHES = ("", "before produce", "after produce", "before write", "after write")


class Crash(Exception):
    """The worker dies here."""


class World:
    """A stand-in for the log and the store. `dies_at` is where the next batch ends."""

    limit_bytes = 1_000_000

    def __init__(self) -> None:
        self.topics: dict[str, list[RawRecord]] = defaultdict(list)
        self.held: dict[tuple[type, str], FeatureRecord] = {}
        self.dies_at = ""

    async def produce(self, records: Sequence[RawRecord]) -> None:
        self._die("before produce")
        for record in records:
            self.topics[record.topic].append(record)
        self._die("after produce")

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        self._die("before write")
        stale = []
        for record in records:
            held = self.held.get(_entity(record))
            if held is None or _order(record) > _order(held):
                self.held[_entity(record)] = record
            elif _order(record) < _order(held):
                stale.append(record)
        self._die("after write")
        return stale

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return [r for r in records if _entity(r) not in self.held or _order(r)[:2] >= _order(self.held[_entity(r)])[:2]]

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return [self.held[_entity(record)] for record in records]

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        return {u: held for u in user_ids if isinstance(held := self.held.get((UserFeatures, u)), UserFeatures)}

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        return {i: held for i in item_ids if isinstance(held := self.held.get((ItemFeatures, i)), ItemFeatures)}

    def _die(self, place: str) -> None:
        if self.dies_at == place:
            raise Crash


class Letters:
    """A stand-in for the encoder: a vector of a text's letters."""

    space_id = "letters"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[text.count(letter) + 1 for letter in "abcd"] for text in texts], np.float32).reshape(-1, 4)


class Parrot:
    """A stand-in for the reasoner: it says what it heard."""

    identity = "parrot"

    async def reason(self, subjects: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> list[ProductKnowledge | None]:
        return [ProductKnowledge(vocabulary="v", claims=(), profile=of.content.title) for of in subjects]


@dataclass(frozen=True)
class Step:
    """A worker takes a batch of a stage, after some records that it has had before, and may die of it."""

    stage: int
    records: int
    again: int
    crash: str


class Worker:
    """All stages, and how far each has acknowledged its topic."""

    def __init__(self, world: World) -> None:
        self.world = world
        policy = BehaviorSettings(history_limit_events=LIMIT)
        stages: tuple[Stage, ...] = (
            OnboardingStage(world, Letters(), BATCH),
            ReasoningStage(world, Parrot(), Letters(), "v", BATCH),
            HistoryStage(world, Everything(), policy, BATCH),
            BehaviorInferenceStage(world, Everything(), Echo(), policy, BATCH),
        )
        self.deliveries = [Delivery(stage, world, world, 300.0) for stage in stages]
        self.acknowledged = [0] * len(stages)

    def take(self, step: Step) -> bool:
        """Whether there was anything new to take."""
        topic = self.world.topics[self.deliveries[step.stage].stage.source.name]
        start = self.acknowledged[step.stage]
        end = min(start + step.records, len(topic))
        batch, self.world.dies_at = topic[max(0, start - step.again) : end], step.crash
        if batch:
            try:
                asyncio.run(self.deliveries[step.stage].handle(batch))
                self.acknowledged[step.stage] = end
            except Crash:
                pass
        return end > start

    def finish(self) -> None:
        """Take everything that is left."""
        while any([self.take(Step(stage, 3, 0, "")) for stage in range(len(self.deliveries))]):
            pass


items = st.lists(st.tuples(st.sampled_from("xyz"), st.text("abcd ", min_size=1, max_size=6)), max_size=8)


def events(ids: str, times_ms: st.SearchStrategy[int]) -> st.SearchStrategy[list[Event]]:
    """Events of two users, each with an id of its own."""
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
    st.builds(Step, st.integers(0, 3), st.integers(1, 4), st.integers(0, 6), st.sampled_from(CRASHES)), max_size=40
)


@given(
    listings=items,
    happened=events("e{}", st.integers(0, WISH_MS)),
    later=events("l{}", st.integers(WISH_MS + 1, WISH_MS + 9)),
    wish=st.booleans(),
    steps=steps,
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_the_store_ends_as_if_everything_had_come_once_and_in_order(
    listings: list[tuple[str, str]],
    happened: list[Event],
    later: list[Event],
    wish: bool,
    steps: list[Step],
    data: st.DataObject,
) -> None:
    gone = [replace(event, retracted=True) for event in happened[1::3]]
    catalog = [Item(item_id=key, title=title, event_time_ms=time) for time, (key, title) in enumerate(listings)]
    forget = [FORGET] * wish
    arrivals: list[Event | RawRecord] = list(data.draw(st.permutations(happened + happened[::2] + gone)))  # some come twice
    place = data.draw(st.integers(0, len(arrivals)))
    late = arrivals[place:]  # behind the wish, among what happened after it
    reference, world = World(), World()
    _produce(reference, [*catalog, *sorted(happened, key=_time), *gone, *forget, *sorted(later, key=_time)])
    _produce(world, [*catalog, *catalog[::3], *arrivals[:place], *forget, *data.draw(st.permutations([*late, *later]))])

    Worker(reference).finish()
    worker = Worker(world)
    for step in steps:
        worker.take(step)
    worker.finish()

    assert not world.topics[DEAD_LETTERS.name]
    crowded = {user for user in "uv" if sum(event.user_id == user for event in happened + later) > LIMIT}
    uncounted = crowded | set("u" * wish) | {event.user_id for event in gone}
    assert _values(world, uncounted) == _values(reference, uncounted)
    for entity, held in world.held.items():  # and the compacted topics end with what the store has
        topic = world.topics["item-features" if entity[0] is ItemFeatures else "user-features"]
        last = [raw for raw in topic if raw.key == entity[1].encode()][-1]
        assert msgspec.json.decode(last.value or b"", type=entity[0]) == held


def _values(world: World, uncounted: set[str]) -> dict[tuple[type, str], FeatureRecord]:
    """What is held, but for the count of events where some may be in it or not: late ones of the crowded and the forgotten, and
    those that were taken back before they came."""
    return {
        entity: replace(held, events_seen=0, inferred=replace(held.inferred, events_seen=0))
        if isinstance(held, UserFeatures) and held.user_id in uncounted
        else held
        for entity, held in world.held.items()
    }


def _time(event: Event) -> tuple[int, str]:
    return event.event_time_ms, event.event_id


def _produce(world: World, records: Sequence[Item | Event | RawRecord]) -> None:
    for record in records:
        raw = record if isinstance(record, RawRecord) else encode(record, 1)
        world.topics[raw.topic].append(raw._replace(offset=len(world.topics[raw.topic])))


def _entity(record: FeatureRecord) -> tuple[type, str]:
    return type(record), record.item_id if isinstance(record, ItemFeatures) else record.user_id


def _order(record: FeatureRecord) -> tuple[int, int, bytes]:
    return record.event_time_ms, record.revision, blake2b(msgspec.json.encode(record)).digest()
