"""Aggregates are exact: whatever is duplicated, late, retracted, erased, redelivered or interrupted, the rows say what a batch
computation in DuckDB over the distinct events says.

Runs the history stage and the aggregates stage with their delivery contract, on an in-memory log with partitions and the real
embedded store.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from features.repository import FeatureRepository
from features.sharding import shard_of
from reaseq.aggregates import Aggregate, evaluate, merge_tiles, unpack_tiles
from reaseq.days import DAY_MS
from reaseq.records import (
    EARLIEST_TIME_MS,
    Event,
    EventDelta,
    EventDeltas,
    FeatureRecord,
    ItemAggregates,
    to_part_id,
    to_source,
)
from reaseq.settings import BehaviorSettings, Settings
from streams.delivery.delivery import Delivery
from streams.delivery.messages import Message, RawRecord, encode
from streams.delivery.stage import BatchPolicy, Stage
from streams.delivery.topics import DEAD_LETTERS, EVENT_DELTAS, EVENTS
from streams.stages.aggregates import AggregatesStage
from streams.stages.history import HistoryStage

BATCH = BatchPolicy(100, 0)
PARTITIONS = 2
PRODUCED_MS = EARLIEST_TIME_MS + 100 * DAY_MS  # of the first record; erasure requests reach up to about this time
CRASHES = ("", "before produce", "after produce", "before write", "after write")
HISTORY, AGGREGATES = 0, 1
AGGREGATES_KEPT = (
    Aggregate("views", "count", ("view",), windows=("1h", "24h", "7d"), half_lives=("1h", "1d")),
    Aggregate("spent", "sum", ("purchase",), windows=("24h", "30d")),
    Aggregate("rating", "mean", ("view", "purchase"), windows=("7d",)),
    Aggregate("conversion", "ratio", ("purchase",), over=("view",), windows=("7d",)),
)


class Crash(Exception):
    """The worker crashes."""


class Catalog:
    """Knows every item, and fails at the poisonous one."""

    def knows(self, item_id: str) -> bool:
        if item_id.endswith("poison"):
            raise ValueError("poisonous")
        return True


class World:
    """An in-memory log in partitions and a real store. Raises Crash at the point `crash_at`."""

    max_message_bytes = 1_000_000

    def __init__(self, store: FeatureRepository) -> None:
        self.logs: dict[tuple[str, int], list[RawRecord]] = defaultdict(list)
        self.store = store
        self.crash_at = ""
        self.clock = count(3 * PRODUCED_MS)  # several records are produced in the same millisecond

    def append(self, record: RawRecord) -> None:
        """Append a record to the partition that the first digit of its key names."""
        digit = (record.key or b"")[:1]
        partition = int(digit) % PARTITIONS if digit.isdigit() else 0
        log = self.logs[record.topic, partition]
        log.append(record._replace(partition=partition, offset=len(log), timestamp_ms=next(self.clock) // 3))

    async def produce(self, records: Sequence[RawRecord]) -> None:
        self._crash("before produce")
        for record in records:
            self.append(record)
        self._crash("after produce")

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        self._crash("before write")
        stale = self.store.write(records)
        self._crash("after write")
        return stale

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return self.store.drop_stale(records)

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        return self.store.newest(records)

    def recreate_events(self) -> None:
        """Create the topic of events anew: offsets start again."""
        for partition in range(PARTITIONS):
            self.logs[EVENTS.name, partition] = []
        self.clock = count(next(self.clock) + 3)

    def land_late(self, number: int) -> None:
        """A zombie's record of deltas lands, whatever the topic holds by now."""
        deltas = [record for partition in range(PARTITIONS) for record in self.logs[EVENT_DELTAS.name, partition]]
        if deltas:
            self.append(deltas[number % len(deltas)])

    def _crash(self, point: str) -> None:
        if self.crash_at == point:
            raise Crash


@dataclass(frozen=True)
class Step:
    """A zombie's record lands; then a worker processes a batch of a stage, which may repeat earlier records, and may crash."""

    stage: int
    lane: int
    records: tuple[int, int]  # from each partition
    repeated: int
    crash: str  # one of CRASHES
    late: int | None = None


class Worker:
    """Both stages, and the offset up to which each of their lanes has finished each partition.

    The history stage has a lane for each of the `shards`. A crash takes all lanes back to the slowest of them: that is what the
    stage has committed.
    """

    def __init__(self, world: World, shards: int) -> None:
        self.world = world
        stages: tuple[Stage, ...] = (
            HistoryStage(world.store, Catalog(), BehaviorSettings(history_limit_events=1000), BATCH, shards),
            AggregatesStage(world.store, AGGREGATES_KEPT, BATCH),
        )
        self.deliveries = [Delivery(stage, world, world, 300.0) for stage in stages]
        self.lanes = shards, 1
        self.finished = {
            (stage, partition): [0] * self.lanes[stage] for stage in (HISTORY, AGGREGATES) for partition in range(PARTITIONS)
        }

    def run(self, step: Step) -> bool:
        """Run one step; returns whether there was a new record."""
        if step.late is not None:
            self.world.land_late(step.late)
        delivery, batch, ends = self.deliveries[step.stage], [], {}
        lanes = self.lanes[step.stage]
        lane = step.lane % lanes
        for partition, records in enumerate(step.records):
            log = self.world.logs[delivery.stage.source.name, partition]
            start = self.finished[step.stage, partition][lane]
            ends[partition] = min(start + records, len(log))
            fetched = log[max(0, start - step.repeated) : ends[partition]]
            batch += [record for record in fetched if shard_of(record.key or b"", lanes) == lane]
        new = any(end > self.finished[step.stage, partition][lane] for partition, end in ends.items())
        self.world.crash_at = step.crash
        try:
            if batch:
                asyncio.run(delivery.handle(batch))
            for partition, end in ends.items():
                self.finished[step.stage, partition][lane] = end
        except Crash:
            for partition in ends:
                self.finished[step.stage, partition] = [min(self.finished[step.stage, partition])] * lanes
        return new

    def finish(self, *stages: int) -> None:
        """Process everything that is left for some stages."""
        steps = [Step(stage, lane, (3, 2), 0, "") for stage in stages for lane in range(self.lanes[stage])]
        while any([self.run(step) for step in steps]):
            pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureRepository:
    """An embedded store, which all examples share: their ids differ."""
    repository = FeatureRepository(Settings(state_dir=tmp_path_factory.mktemp("store")), require_complete=True)
    repository.apply()
    return repository


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return count()


def events(ids: str, earliest_ms: int, latest_ms: int) -> st.SearchStrategy[list[Event]]:
    """Events of four users on both partitions, with unique ids. Some are poisonous."""
    one = st.builds(
        Event,
        event_id=st.integers(0, 60).map(ids.format),
        user_id=st.sampled_from("0123"),
        item_id=st.sampled_from(["i", "j", "i", "j", "i", "poison"]),
        type=st.sampled_from(["view", "purchase"]),
        event_time_ms=st.integers(earliest_ms, latest_ms) | st.integers(latest_ms - DAY_MS, latest_ms),
        value=st.none() | st.integers(-500, 500).map(lambda cents: cents / 100),
    )
    return st.lists(one, max_size=16, unique_by=lambda event: event.event_id)


steps = st.lists(
    st.builds(
        Step,
        st.integers(0, 1),
        st.integers(0, 2),
        st.tuples(st.integers(0, 3), st.integers(0, 3)),
        st.integers(0, 6),
        st.sampled_from(CRASHES),
        st.none() | st.integers(0, 1000),
    ),
    max_size=30,
)


@given(
    before=events("e{}", PRODUCED_MS - 40 * DAY_MS, PRODUCED_MS - 1),
    after=events("l{}", PRODUCED_MS + 1000, PRODUCED_MS + 2 * DAY_MS),
    erased=st.sampled_from(["", "0", "1"]),
    anew=events("n{}", PRODUCED_MS + 1000, PRODUCED_MS + 3 * DAY_MS),
    steps=steps,
    later_ms=st.integers(0, 3 * DAY_MS),
    shards=st.sampled_from([1, 3]),
    data=st.data(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_aggregates_equal_a_batch_computation_over_the_distinct_events(
    store: FeatureRepository,
    numbers: Iterator[int],
    before: list[Event],
    after: list[Event],
    erased: str,
    anew: list[Event],
    steps: list[Step],
    later_ms: int,
    shards: int,
    data: st.DataObject,
) -> None:
    example = f"{next(numbers)}"
    before, after, anew = ([_of_example(event, example) for event in part] for part in (before, after, anew))
    erased = erased and erased + example.zfill(6)
    retracted, retracted_later = ([replace(event, retracted=True) for event in part[1::3]] for part in (before, after))
    arrivals = data.draw(st.permutations([*before, *before[::2], *retracted]))
    split = data.draw(st.integers(0, len(arrivals)))
    late = arrivals[split:]  # produced after the erasure request, among later events
    world = World(store)
    _produce(world, arrivals[:split])
    if erased:
        world.append(RawRecord(EVENTS.name, erased.encode(), None, 0))
    _produce(world, data.draw(st.permutations([*late, *after, *after[::3], *retracted_later])))
    worker = Worker(world, shards)
    for step in steps[::2]:
        worker.run(step)
    worker.finish(HISTORY)
    world.recreate_events()
    _produce(world, data.draw(st.permutations([*anew, *anew[::3]])))
    worker.finished |= {(HISTORY, partition): [0] * shards for partition in range(PARTITIONS)}
    for step in steps[1::2]:
        worker.run(step)
    worker.finish(HISTORY, AGGREGATES)
    for number in data.draw(st.lists(st.integers(0, 1000), max_size=3)):
        world.land_late(number)
    worker.finish(AGGREGATES)

    gone = {event.event_id for event in retracted + retracted_later}
    distinct = [
        event
        for event in {event.event_id: event for event in before + after + anew}.values()
        if event.event_id not in gone
        and not event.item_id.endswith("poison")
        and not (event.user_id == erased and event.event_time_ms < PRODUCED_MS)
    ]
    now_ms = later_ms + max((event.event_time_ms for event in before + after + anew), default=PRODUCED_MS)
    for item_id in (f"{example}-i", f"{example}-j"):
        assert read_features(store, shards, item_id, now_ms) == pytest.approx(
            compute_features([event for event in distinct if event.item_id == item_id], now_ms), rel=1e-12, nan_ok=True
        )
    dead_letters = [record.key or b"" for (topic, _), log in world.logs.items() if topic == DEAD_LETTERS.name for record in log]
    assert all(key.startswith(b"events/") for key in dead_letters)


async def test_row_of_a_hot_item_is_written_once_in_a_batch_and_a_repeated_record_changes_nothing(
    store: FeatureRepository,
) -> None:
    stage = AggregatesStage(store, AGGREGATES_KEPT, BATCH)
    messages = [build_deltas(offset, f"item {number}") for offset, number in enumerate([0, 0, 1, 0])]

    effects = await stage.process([*messages, messages[1]])

    assert [
        (record.entity_id, record.deltas, record.applied_offset)
        for record in effects.records
        if isinstance(record, ItemAggregates)
    ] == [
        ("1/item 0", 3, 3),
        ("1/item 1", 1, 2),
    ]
    assert effects.counts == {"applied": 4, "redelivered": 1}
    store.write(effects.records)
    assert (await stage.process(messages)).records == []


async def test_item_has_a_row_for_each_source(store: FeatureRepository) -> None:
    effects = await AggregatesStage(store, AGGREGATES_KEPT, BATCH).process(
        [build_deltas(5, "shared", source) for source in ("0", "1:1of2", "1:2of2")]
    )

    assert [record.entity_id for record in effects.records] == ["0/shared", "1:1of2/shared", "1:2of2/shared"]


def build_deltas(offset: int, item_id: str, source: str = "1") -> Message:
    delta = EventDelta(source, offset, PRODUCED_MS, 1, item_id, "view", PRODUCED_MS, None)
    return Message(source, EventDeltas.from_deltas([delta]), PRODUCED_MS)


def read_features(store: FeatureRepository, shards: int, item_id: str, now_ms: int) -> dict[str, float]:
    """The features of an item from the rows in the store."""
    sources = [to_source(partition, shard, shards) for partition in range(PARTITIONS) for shard in range(shards)]
    rows = store.read_aggregates([to_part_id(source, item_id) for source in sources])
    tiles = merge_tiles(unpack_tiles(row.tiles) for row in rows.values())
    return {name: value for aggregate in AGGREGATES_KEPT for name, value in evaluate(aggregate, tiles, now_ms).items()}


WINDOWS_MS = {"1h": (12, 300_000), "24h": (24, 3_600_000), "7d": (168, 3_600_000), "30d": (30, DAY_MS)}  # tiles, tile
QUERIES = {
    "views_{window}": ("count(*)", "type = 'view'", ("1h", "24h", "7d")),
    "spent_{window}": ("coalesce(sum(micro)::hugeint, 0) / 1e6", "type = 'purchase'", ("24h", "30d")),
    "rating_{window}": ("coalesce(sum(micro) / 1e6 / count(micro), 'nan')", "true", ("7d",)),
    "conversion_{window}": (
        "case when count(*) filter (type = 'view') = 0 then 'nan' else "
        "count(*) filter (type = 'purchase') / count(*) filter (type = 'view') end",
        "true",
        ("7d",),
    ),
}
DECAYED = """
select coalesce(sum(pow(2, -greatest(0, {now} - (tile + 0.5) * {tile_ms}) / {half_life})), 0)
from (select event_time_ms // {tile_ms} as tile from events where type = 'view')
where tile > {now} // {tile_ms} - {tiles} and tile <= {now} // {tile_ms}
"""


def compute_features(events: Sequence[Event], now_ms: int) -> dict[str, float]:
    """The same features in SQL over the events themselves."""
    with duckdb.connect() as connection:
        connection.execute("create table events (type text, event_time_ms bigint, micro bigint)")
        for event in events:
            micro = None if event.value is None else round(event.value * 100) * 10_000
            connection.execute("insert into events values (?, ?, ?)", [event.type, event.event_time_ms, micro])
        features = {}
        for name, (select, where, windows) in QUERIES.items():
            for window in windows:
                tiles, tile_ms = WINDOWS_MS[window]
                last = now_ms // tile_ms
                between = f"event_time_ms // {tile_ms} > {last - tiles} and event_time_ms // {tile_ms} <= {last}"
                found = connection.execute(f"select {select} from events where {where} and {between}").fetchone()
                features[name.format(window=window)] = float(found[0]) if found else 0.0
        for half_life, tiles, tile_ms, half_life_ms in (("1h", 48, 300_000, 3_600_000), ("1d", 96, 3_600_000, DAY_MS)):
            query = DECAYED.format(now=now_ms, tile_ms=tile_ms, tiles=tiles, half_life=half_life_ms)
            found = connection.execute(query).fetchone()
            features[f"views_half_life_{half_life}"] = float(found[0]) if found else 0.0
        return features


def _of_example(event: Event, example: str) -> Event:
    """The event with ids that no other example has."""
    return replace(event, user_id=event.user_id + example.zfill(6), item_id=f"{example}-{event.item_id}")


def _produce(world: World, events: Sequence[Event]) -> None:
    for event in events:
        world.append(encode(event, 1))
