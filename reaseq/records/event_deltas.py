"""Deltas: which events have come to count, and which count no longer. Users' histories decide; the deltas name no user."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from reaseq.records.event import EventType, MicroValue
from reaseq.records.fields import PARTITIONS_LIMIT, Count, Id, Int64, TimeMs, require_equal_lengths

Partition = Annotated[int, Meta(ge=0, lt=PARTITIONS_LIMIT)]


class EventDelta(NamedTuple):
    """One event that counts from now on (`sign` 1) or no longer (-1), because of the record at a position of `events`."""

    partition: int
    offset: int
    produced_ms: int
    sign: Literal[1, -1]
    item_id: str
    event_type: str
    time_ms: int
    value: int | None  # in millionths


class EventDeltas(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="event-deltas.1"):
    """The deltas of one batch from one partition of `events`, as parallel arrays, in order of offset.

    `values` is empty if no event has a value.
    """

    source_partition: Partition
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
        """The record of at least one delta; all are from one partition."""
        partitions, offsets, produced_ms, signs, item_ids, types, times_ms, values = zip(*deltas, strict=True)
        return cls(
            source_partition=partitions[0],
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
        partitions, values = (self.source_partition,) * count, self.values or (None,) * count
        columns = (partitions, self.offsets, self.produced_ms, self.signs, self.item_ids, self.types, self.times_ms, values)
        return map(EventDelta._make, zip(*columns, strict=True))
