"""Records fetched during a rebalance are dropped, and fetched again from the committed offset or the start."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from faust.types import TP

from streams.delivery.messages import RawRecord
from streams.runtime.faust_consumer import BatchConsumer

COMMITTED, NEW, COMMITTED_AT_0 = TP("events", 0), TP("events", 1), TP("events", 2)
FROM_COMMITTED_OR_START = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]  # partition, offset


class FakeStages:
    """A receiver that records what it receives."""

    def __init__(self) -> None:
        self.full: set[str] = set()
        self.received: list[tuple[int, int]] = []  # partition, offset
        self.positions: dict[TP, int] = {}

    def has_room(self, topic: str) -> bool:
        return topic not in self.full

    def put(self, fetched: Mapping[TP, list[RawRecord]], positions: Mapping[TP, int]) -> None:
        self.received += [(record.partition, record.offset) for records in fetched.values() for record in records]
        self.positions.update(positions)


class Consumer(BatchConsumer):
    """Fakes Faust and a broker: three records in each of three partitions, two of which have a committed offset."""

    can_resume_flow = None

    def __init__(self) -> None:
        self.receiver = self.stages = FakeStages()
        self.app = SimpleNamespace(consumer_generation_id=1, rebalancing=False, should_stop=False)
        self.transport = SimpleNamespace(app=self.app)
        self._stopped = asyncio.Event()
        self._thread = SimpleNamespace(positions=self._read_positions)
        self.flow_active = True
        self.assigned = {COMMITTED, NEW, COMMITTED_AT_0}
        self.positions = dict.fromkeys(self.assigned, 0)
        self.during_fetches: list[Callable[[], None]] = []  # what happens during the first, the second, ... fetch
        self.failing_rewinds = 0
        self.fetches: list[set[TP]] = []

    def assignment(self) -> set[TP]:
        return self.assigned

    _get_active_partitions = assignment

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        assert self.assigned, "No partitions are currently assigned"
        if self.failing_rewinds:
            self.failing_rewinds -= 1
            raise KafkaError("the coordinator has moved")
        self.positions[COMMITTED] = 1
        return {COMMITTED: 1, NEW: None, COMMITTED_AT_0: 0}  # like aiokafka, does not seek to an offset of 0

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return dict.fromkeys(partitions, 0)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        self.positions.update(partitions)

    async def sleep(self, seconds: float) -> None:
        pass

    async def _read_positions(self, partitions: Iterable[TP]) -> dict[TP, int]:
        return {tp: self.positions[tp] for tp in partitions}

    async def wait(self, *coros: object) -> None:
        """The rebalance ends."""
        self.flow_active = True
        self.change_generation()

    def change_generation(self) -> None:
        self.app.consumer_generation_id += 1

    def stop_flow(self) -> None:
        """A rebalance begins."""
        self.flow_active = False

    async def _getmany(self, partitions: Iterable[TP], timeout: float) -> dict[TP, list[Any]]:
        self.fetches.append(set(partitions))
        found = {tp: [_record(tp, offset) for offset in range(self.positions[tp], 3)] for tp in partitions}
        self.positions |= dict.fromkeys(partitions, 3)
        if self.during_fetches:
            self.during_fetches.pop(0)()
        return found


def _record(tp: TP, offset: int) -> SimpleNamespace:
    fields = {"key": b"k", "value": b"v", "timestamp": 0, "timestamp_type": 0, "headers": ()}
    return SimpleNamespace(topic=tp.topic, partition=tp.partition, offset=offset, **fields)


def fetch(consumer: Consumer, times: int) -> None:
    async def run() -> None:
        for _ in range(times):
            await consumer._fetch()

    asyncio.run(run())


def test_assignment_starts_from_committed_offsets_or_the_start() -> None:
    consumer = Consumer()

    fetch(consumer, 4)

    assert sorted(consumer.stages.received) == FROM_COMMITTED_OR_START


def test_records_fetched_during_a_rebalance_are_fetched_again() -> None:
    consumer = Consumer()
    consumer.during_fetches = [consumer.change_generation, consumer.stop_flow, consumer.change_generation]

    fetch(consumer, 8)

    assert sorted(consumer.stages.received) == FROM_COMMITTED_OR_START


def test_nothing_is_fetched_during_a_rebalance() -> None:
    consumer = Consumer()
    fetch(consumer, 1)
    consumer.app.rebalancing = True

    fetch(consumer, 3)

    assert consumer.fetches == []


def test_nothing_is_fetched_until_a_failed_rewind_has_succeeded() -> None:
    consumer = Consumer()
    consumer.failing_rewinds = 2

    fetch(consumer, 2)
    assert consumer.fetches == []
    fetch(consumer, 2)

    assert sorted(consumer.stages.received) == FROM_COMMITTED_OR_START


def test_worker_without_partitions_waits_for_some() -> None:
    consumer, assigned = Consumer(), set(Consumer().assigned)
    consumer.assigned = set()
    fetch(consumer, 3)

    consumer.assigned = assigned
    consumer.change_generation()
    fetch(consumer, 2)

    assert sorted(consumer.stages.received) == FROM_COMMITTED_OR_START


def test_positions_of_a_fetch_during_a_rebalance_are_dropped() -> None:
    consumer = Consumer()
    consumer.during_fetches = [consumer.change_generation]

    fetch(consumer, 2)
    assert consumer.stages.positions == {}

    fetch(consumer, 2)
    assert consumer.stages.positions == dict.fromkeys(consumer.assigned, 3)


def test_topic_without_room_is_not_fetched() -> None:
    consumer = Consumer()
    consumer.stages.full.add("events")

    fetch(consumer, 3)

    assert consumer.fetches == [] and consumer.stages.received == []


@pytest.mark.parametrize("error", [asyncio.CancelledError, *BatchConsumer.consumer_stopped_errors])
async def test_fetching_ends_quietly_only_in_a_worker_that_stops(error: type[BaseException]) -> None:
    def stop() -> None:
        raise error

    consumer, fetcher = Consumer(), SimpleNamespace(_stopped=asyncio.Event())
    consumer.during_fetches = [stop, stop]
    with pytest.raises(error):
        await consumer._drain_messages(fetcher)

    consumer.app.should_stop = True
    await consumer._drain_messages(fetcher)
