"""What is fetched while partitions are handed out anew: dropped, and read again from the commits or the start."""

import asyncio
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from streams.contract.messages import RawRecord
from streams.runtime.faust_consumer import BatchConsumer

COMMITTED, NEW = TP("events", 0), TP("events", 1)


class Taking:
    """A stand-in for the stages."""

    def __init__(self) -> None:
        self.full: set[str] = set()
        self.taken: list[tuple[int, int]] = []

    def has_room(self, topic: str) -> bool:
        return topic not in self.full

    def put(self, topic: str, records: list[RawRecord]) -> None:
        self.taken += [(record.partition, record.offset) for record in records]


class Consumer(BatchConsumer):
    """A stand-in for what Faust makes of a broker with three records in each partition, one of which has a commit."""

    def __init__(self) -> None:
        self.receiver = self.taking = Taking()
        self.app = SimpleNamespace(consumer_generation_id=1, rebalancing=False)
        self.flow_active = True
        self.positions = {COMMITTED: 0, NEW: 0}
        self.rebalances_during_fetch = 0
        self.asked: list[set[TP]] = []

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

    async def _getmany(self, partitions: Iterable[TP], timeout: float) -> dict[TP, list[Any]]:
        self.asked.append(set(partitions))
        found = {tp: [_record(tp, offset) for offset in range(self.positions[tp], 3)] for tp in partitions}
        self.positions |= dict.fromkeys(partitions, 3)
        if self.rebalances_during_fetch:
            self.rebalances_during_fetch -= 1
            self.app.consumer_generation_id += 1
        return found


def _record(tp: TP, offset: int) -> SimpleNamespace:
    return SimpleNamespace(topic=tp.topic, partition=tp.partition, offset=offset, key=b"k", value=b"v", timestamp=0, headers=())


def fetch(consumer: Consumer, times: int) -> None:
    async def run() -> None:
        for _ in range(times):
            await consumer._fetch()

    asyncio.run(run())


def test_an_assignment_begins_from_its_commits_and_a_partition_without_one_from_its_start() -> None:
    consumer = Consumer()

    fetch(consumer, 4)

    assert sorted(consumer.taking.taken) == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_what_was_fetched_while_partitions_were_handed_out_anew_comes_again() -> None:
    consumer = Consumer()
    consumer.rebalances_during_fetch = 2

    fetch(consumer, 6)

    assert sorted(consumer.taking.taken) == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_a_topic_whose_stages_are_full_is_not_asked() -> None:
    consumer = Consumer()
    consumer.taking.full.add("events")

    fetch(consumer, 3)

    assert consumer.asked == [] and consumer.taking.taken == []
