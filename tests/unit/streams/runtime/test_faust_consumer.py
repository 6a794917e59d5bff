"""Records fetched during a rebalance are dropped, and fetched again from the committed offset or the start."""

import asyncio
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from streams.delivery.messages import RawRecord
from streams.runtime.faust_consumer import BatchConsumer

COMMITTED, NEW = TP("events", 0), TP("events", 1)


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
    """Fakes Faust and a broker: three records in each of two partitions, one of which has a committed offset."""

    def __init__(self) -> None:
        self.receiver = self.stages = FakeStages()
        self.app = SimpleNamespace(consumer_generation_id=1, rebalancing=False)
        self._thread = SimpleNamespace(positions=self._read_positions)
        self.flow_active = True
        self.positions = {COMMITTED: 0, NEW: 0}
        self.rebalances_during_fetch = 0
        self.fetches: list[set[TP]] = []

    def assignment(self) -> set[TP]:
        return {COMMITTED, NEW}

    _get_active_partitions = assignment

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        self.positions[COMMITTED] = 1
        return {COMMITTED: 1, NEW: None}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return dict.fromkeys(partitions, 0)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        self.positions.update(partitions)

    async def sleep(self, seconds: float) -> None:
        pass

    async def _read_positions(self, partitions: Iterable[TP]) -> dict[TP, int]:
        return {tp: self.positions[tp] for tp in partitions}

    async def _getmany(self, partitions: Iterable[TP], timeout: float) -> dict[TP, list[Any]]:
        self.fetches.append(set(partitions))
        found = {tp: [_record(tp, offset) for offset in range(self.positions[tp], 3)] for tp in partitions}
        self.positions |= dict.fromkeys(partitions, 3)
        if self.rebalances_during_fetch:
            self.rebalances_during_fetch -= 1
            self.app.consumer_generation_id += 1
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

    assert sorted(consumer.stages.received) == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_records_fetched_during_a_rebalance_are_fetched_again() -> None:
    consumer = Consumer()
    consumer.rebalances_during_fetch = 2

    fetch(consumer, 6)

    assert sorted(consumer.stages.received) == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_positions_of_a_fetch_during_a_rebalance_are_dropped() -> None:
    consumer = Consumer()
    consumer.rebalances_during_fetch = 1

    fetch(consumer, 2)
    assert consumer.stages.positions == {}

    fetch(consumer, 2)
    assert consumer.stages.positions == {COMMITTED: 3, NEW: 3}


def test_topic_without_room_is_not_fetched() -> None:
    consumer = Consumer()
    consumer.stages.full.add("events")

    fetch(consumer, 3)

    assert consumer.fetches == [] and consumer.stages.received == []
