"""Deltas: which events have come to count, and which count no longer. Users' histories decide; the deltas name no user."""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from reaseq.records.event import EventType, MicroValue
from reaseq.records.fields import PARTITIONS_LIMIT, Count, Id, Int64, TimeMs, require_equal_lengths

SHARDS_LIMIT = 10_000
SOURCE_LIMIT_CHARS = len(f"{PARTITIONS_LIMIT}:{SHARDS_LIMIT}of{SHARDS_LIMIT}")
Source = Annotated[str, Meta(pattern=r"^[0-9]+(:[0-9]+of[0-9]+)?$", max_length=SOURCE_LIMIT_CHARS)]


@cache
def to_source(partition: int, shard: int, shards: int) -> str:
    """The name of a part of `events` whose deltas are in order: a partition, such as `3`.

    If the store has several shards, it is those users of a partition who are on one of them, such as `3:1of2`, because a shard
    that does not answer holds up its users alone.
    """
    return f"{partition}:{shard + 1}of{shards}" if shards > 1 else str(partition)


def read_partition(source: str) -> int:
    """The partition of a source."""
    return int(source.partition(":")[0])


class EventDelta(NamedTuple):
    """One event that counts from now on (`sign` 1) or no longer (-1), because of the record at a position of `events`."""

    source: str  # see `to_source`
    offset: int
    produced_ms: int
    sign: Literal[1, -1]
    item_id: str
    event_type: str
    time_ms: int
    value: int | None  # in millionths


class EventDeltas(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="event-deltas.1"):
    """The deltas of one batch from one source, as parallel arrays, in order of offset.

    `values` is empty if no event has a value.
    """

    source: Source
    offsets: tuple[Count, ...]
    produced_ms: tuple[Int64, ...]
    signs: tuple[Literal[1, -1], ...]
    item_ids: tuple[Id, ...]
    types: tuple[EventType, ...]
    times_ms: tuple[TimeMs, ...]
    values: tuple[MicroValue | None, ...] = ()

    def __post_init__(self) -> None:
        values = self.values or self.offsets
        require_equal_lengths(self.offsets, self.produced_ms, self.signs, self.item_ids, self.types, self.times_ms, values)

    @classmethod
    def from_deltas(cls, deltas: Iterable[EventDelta]) -> "EventDeltas":
        """The record of at least one delta; all are from one source."""
        sources, offsets, produced_ms, signs, item_ids, types, times_ms, values = zip(*deltas, strict=True)
        return cls(
            source=sources[0],
            offsets=offsets,
            produced_ms=produced_ms,
            signs=signs,
            item_ids=item_ids,
            types=types,
            times_ms=times_ms,
            values=values if any(value is not None for value in values) else (),
        )

    def __iter__(self) -> Iterator[EventDelta]:
        """The deltas, in order."""
        count = len(self.offsets)
        sources, values = (self.source,) * count, self.values or (None,) * count
        columns = (sources, self.offsets, self.produced_ms, self.signs, self.item_ids, self.types, self.times_ms, values)
        return map(EventDelta._make, zip(*columns, strict=True))
