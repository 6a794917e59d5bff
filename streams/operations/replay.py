"""Replays a shop's items and events to their topics, in order of event time and at a chosen speed."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import TypeVar

from reaseq.records import Event, Item
from streams.runtime.kafka.producer import Producer

CHUNK_RECORDS = 500
TICK_S = 0.05

T = TypeVar("T")


def replay(
    producer: Producer,
    items: Sequence[Item],
    events: Sequence[Event],
    speed: float,
    progress: Callable[[int], None] = lambda records: None,
) -> int:
    """Produce items and events in order of event time; at equal times the item comes first. Both must be sorted already.

    `speed` is in seconds of event time per second; 0 produces as fast as the broker confirms. Calls `progress` with the number
    of records of each step. Returns the number of records produced.
    """
    produced = 0
    for chunk in _paced(list(merge(items, events, key=attrgetter("event_time_ms"))), speed):
        produced += producer.send(chunk)
        progress(len(chunk))
    return produced


def _paced(records: Sequence[Item | Event], speed: float) -> Iterator[Sequence[Item | Event]]:
    started, position = time.monotonic(), 0
    while position < len(records):
        end = min(position + CHUNK_RECORDS, len(records))
        if speed:
            elapsed_ms = (time.monotonic() - started) * 1000 * speed
            due_ms = records[0].event_time_ms + elapsed_ms
            end = next((index for index in range(position, end) if records[index].event_time_ms > due_ms), end)
        if end == position:
            time.sleep(TICK_S)
            continue
        yield records[position:end]
        position = end


def at_rate(records: Iterable[T], rate_per_s: float) -> Iterator[list[T]]:
    """The records in chunks, at most `rate_per_s` per second. Sleeps between chunks to keep the rate."""
    limit = max(1, int(min(CHUNK_RECORDS, rate_per_s)))
    started, yielded, remaining = time.monotonic(), 0, iter(records)
    while chunk := list(islice(remaining, limit)):
        yield chunk
        yielded += len(chunk)
        time.sleep(max(0.0, yielded / rate_per_s - (time.monotonic() - started)))
