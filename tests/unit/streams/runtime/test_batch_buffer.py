"""Batching: a full batch is taken at once, others when the first record has waited long enough, in order of arrival."""

import asyncio
import time

from streams.delivery.messages import RawRecord
from streams.delivery.stage import BatchPolicy
from streams.runtime.batch_buffer import BatchBuffer


def records(*offsets: int) -> list[RawRecord]:
    return [RawRecord("events", b"k", b"", 0, (), 0, offset) for offset in offsets]


async def test_full_batch_is_taken_at_once_and_in_order() -> None:
    buffer = BatchBuffer(BatchPolicy(limit_records=3, wait_s=3600.0))
    buffer.put(records(1, 2))
    assert buffer.has_room
    buffer.put(records(3))
    assert not buffer.has_room
    async with asyncio.timeout(30):
        assert await buffer.take() == records(1, 2, 3)
        buffer.put(records(4, 5, 6, 7, 8, 9, 10))
        assert await buffer.take() == records(4, 5, 6)
        assert not buffer.has_room
        assert await buffer.take() == records(7, 8, 9)
    assert buffer.has_room


async def test_partial_batch_waits_from_its_first_record() -> None:
    buffer = BatchBuffer(BatchPolicy(limit_records=3, wait_s=0.1))
    taking = asyncio.create_task(buffer.take())
    await asyncio.sleep(0.15)  # the wait starts with the first record
    started = time.monotonic()
    buffer.put(records(1))
    await asyncio.sleep(0.01)
    buffer.put(records(2))

    assert await taking == records(1, 2)
    assert time.monotonic() - started >= 0.09


async def test_cleared_records_are_not_taken() -> None:
    buffer = BatchBuffer(BatchPolicy(limit_records=3, wait_s=0.05))
    taking = asyncio.create_task(buffer.take())
    buffer.put(records(1, 2))
    await asyncio.sleep(0.01)
    buffer.clear()
    await asyncio.sleep(0.1)
    buffer.put(records(7))

    assert await taking == records(7)
