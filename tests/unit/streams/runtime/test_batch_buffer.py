"""Batches: full ones at once, others when the first record has waited long enough, in the order of arrival."""

import asyncio
import time

from streams.contract.messages import RawRecord
from streams.contract.stage import BatchPolicy
from streams.runtime.batch_buffer import BatchBuffer


def records(*offsets: int) -> list[RawRecord]:
    return [RawRecord("events", b"k", b"", 0, (), 0, offset) for offset in offsets]


async def test_a_full_batch_does_not_wait_and_keeps_the_order() -> None:
    buffer = BatchBuffer(BatchPolicy(limit_records=3, wait_s=3600.0))
    buffer.put(records(1, 2))
    assert buffer.has_room
    buffer.put(records(3, 4, 5, 6, 7))
    assert not buffer.has_room

    assert await buffer.take() == records(1, 2, 3)
    assert await buffer.take() == records(4, 5, 6)
    assert buffer.has_room


async def test_what_does_not_fill_a_batch_waits_for_more_only_so_long() -> None:
    buffer = BatchBuffer(BatchPolicy(limit_records=3, wait_s=0.1))
    taking = asyncio.create_task(buffer.take())
    await asyncio.sleep(0.15)  # nothing is there, so nothing has waited yet
    started = time.monotonic()
    buffer.put(records(1))
    await asyncio.sleep(0.01)
    buffer.put(records(2))

    assert await taking == records(1, 2)
    assert time.monotonic() - started >= 0.09


async def test_what_is_cleared_is_not_taken() -> None:
    buffer = BatchBuffer(BatchPolicy(limit_records=3, wait_s=0.05))
    taking = asyncio.create_task(buffer.take())
    buffer.put(records(1, 2))
    await asyncio.sleep(0.01)
    buffer.clear()
    await asyncio.sleep(0.1)
    buffer.put(records(7))

    assert await taking == records(7)
