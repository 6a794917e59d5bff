"""The lanes of a stage: a shard that does not answer holds up its own records alone, up to a limit."""

import asyncio

from streams.delivery.messages import RawRecord
from streams.delivery.stage import BatchPolicy
from streams.runtime.lanes import Lanes

USERS = [f"u{number}".encode() for number in range(90)]


def record(key: bytes | None, offset: int = 0) -> RawRecord:
    return RawRecord("events", key, b"", 0, (), 0, offset)


def test_records_of_a_key_stay_in_one_lane_and_in_order() -> None:
    lanes = Lanes("history", BatchPolicy(10, 1.0), shards=3, held_limit_records=1000)
    records = [record(key, offset) for offset, key in enumerate(USERS * 3)]

    split = lanes.split([*records, record(None), record(b"\xff")])

    assert sum(map(len, split.values())) == len(records) + 2
    assert [lane.name for lane in lanes] == ["history 1/3", "history 2/3", "history 3/3"]
    for own in split.values():
        assert [each.offset for each in own if each.key in USERS] == sorted(each.offset for each in own if each.key in USERS)
    keys = [{each.key for each in own} for own in split.values()]
    assert len(keys) == 3 and not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]


def test_one_shard_has_room_for_less_than_a_batch_whatever_the_limit() -> None:
    lanes = Lanes("history", BatchPolicy(2, 1.0), shards=1, held_limit_records=1000)
    [lane] = lanes
    lane.buffer.put([record(b"u")])
    assert lanes.has_room
    lane.buffer.put([record(b"u")])

    assert not lanes.has_room


def test_lane_that_waits_leaves_room_for_the_others_up_to_the_limit() -> None:
    lanes = Lanes("history", BatchPolicy(2, 1.0), shards=3, held_limit_records=10)
    waiting, *others = lanes
    waiting.buffer.put([record(b"u")] * 9)
    assert lanes.has_room
    waiting.buffer.put([record(b"u")])
    assert not lanes.has_room

    waiting.buffer.clear()
    for other in others:
        other.buffer.put([record(b"v")] * 2)
    assert lanes.has_room, "the first lane has nothing to do"
    waiting.buffer.put([record(b"u")] * 2)
    assert not lanes.has_room, "no lane lacks work"


async def test_batches_in_flight_are_shared_out() -> None:
    lanes = Lanes("reasoning", BatchPolicy(2, 1.0, in_flight=4), shards=3, held_limit_records=10)
    gate = asyncio.Event()
    started: list[str] = []
    for lane in lanes:
        for key in (b"a", b"b"):
            await lane.in_flight.start([record(key)], lambda name=lane.name: work(name))  # type: ignore[misc]

    async def work(name: str) -> None:
        started.append(name)
        await gate.wait()

    await asyncio.sleep(0)
    assert len(started) == 6, "two batches in each lane"
    gate.set()
    for lane in lanes:
        await lane.in_flight.drain()
