"""Encodes the deltas of a batch: few records for many events, in the order of the events in their sources."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from reaseq.records import EventDelta, EventDeltas
from streams.delivery.dead_letters import size_bytes
from streams.delivery.messages import RawRecord, encode

_source = attrgetter("source")


def encode_deltas(deltas: Sequence[EventDelta], limit_bytes: int) -> list[RawRecord]:
    """One record for each source, or several if it is larger than `limit_bytes`, in order of offset.

    The order counts: a consumer that has applied an offset takes everything before it for redelivered. So deltas of one offset
    stay in one record, whatever its size.
    """
    in_order = sorted(deltas, key=attrgetter("source", "offset"))
    return [raw for _, part in groupby(in_order, _source) for raw in _encode(list(part), limit_bytes)]


def _encode(deltas: list[EventDelta], limit_bytes: int) -> Iterator[RawRecord]:
    raw = encode(EventDeltas.from_deltas(deltas), min(delta.produced_ms for delta in deltas))
    middle = _middle(deltas)
    if size_bytes(raw) <= limit_bytes or not middle:
        yield raw
        return
    yield from _encode(deltas[:middle], limit_bytes)
    yield from _encode(deltas[middle:], limit_bytes)


def _middle(deltas: list[EventDelta]) -> int:
    """Where to cut: near the middle, between two offsets; 0 if all have the same."""
    middle = len(deltas) // 2
    before, after = middle, middle
    while before and deltas[before - 1].offset == deltas[before].offset:
        before -= 1
    while after < len(deltas) and deltas[after - 1].offset == deltas[after].offset:
        after += 1
    return before or after % len(deltas)
