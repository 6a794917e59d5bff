"""Replaying a shop onto the topics, in order of event time, at a chosen speed."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import TypeVar

from reaseq.records import Event, Item
from streams.runtime.kafka_clients import Producer

CHUNK_RECORDS = 500
TICK_S = 0.05

T = TypeVar("T")


def replay(
    producer: Producer,
    items: Sequence[Item],
    events: Sequence[Event],
    speed: float,
    progress: Callable[[int], None] = lambda produced: None,
) -> int:
    """Produce items and events by event time, an item before the events of its moment; returns how many.

    `speed` is how many seconds of event time pass in one second; 0 goes as fast as the broker confirms.
    """
    produced = 0
    for chunk in _paced(list(merge(items, events, key=attrgetter("event_time_ms"))), speed):
        produced += producer.send(chunk)
        progress(len(chunk))
    return produced


def _paced(records: Sequence[Item | Event], speed: float) -> Iterator[Sequence[Item | Event]]:
    started, at = time.monotonic(), 0
    while at < len(records):
        end = min(at + CHUNK_RECORDS, len(records))
        if speed:
            passed_ms = (time.monotonic() - started) * 1000 * speed
            due_ms = records[0].event_time_ms + passed_ms
            end = next((place for place in range(at, end) if records[place].event_time_ms > due_ms), end)
        if end == at:
            time.sleep(TICK_S)
            continue
        yield records[at:end]
        at = end


def at_rate(records: Iterable[T], rate_per_s: float) -> Iterator[list[T]]:
    """The records in chunks, no more than so many a second: between two chunks it waits for as long as that takes."""
    limit = max(1, int(min(CHUNK_RECORDS, rate_per_s)))
    started, given, left = time.monotonic(), 0, iter(records)
    while chunk := list(islice(left, limit)):
        yield chunk
        given += len(chunk)
        time.sleep(max(0.0, given / rate_per_s - (time.monotonic() - started)))
