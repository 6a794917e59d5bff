"""Splits the work of a stage by the shards of the store, so that the records of one shard do not wait for another."""

from collections.abc import Iterator, Sequence

from features.sharding import shard_of
from streams.delivery.messages import RawRecord
from streams.delivery.stage import BatchPolicy
from streams.runtime.batch_buffer import BatchBuffer
from streams.runtime.in_flight import InFlight


class Lane:
    """The waiting records of a stage whose entities are on one shard, and its running batches of them."""

    def __init__(self, name: str, policy: BatchPolicy, limit_batches: int) -> None:
        self.name = name
        self.buffer = BatchBuffer(policy)
        self.in_flight = InFlight(limit_batches)


class Lanes:
    """The lanes of a stage, one for each shard.

    The key of a record is taken for the id of its entity. While a shard does not answer, the others go on. At most
    `held_limit_records` wait then, in memory and uncommitted; at that limit, the stage waits for all shards.
    """

    def __init__(self, stage: str, policy: BatchPolicy, shards: int, held_limit_records: int) -> None:
        names = [f"{stage} {number + 1}/{shards}" for number in range(shards)]
        self._lanes = [Lane(name, policy, limit_batches=-(-policy.in_flight // shards)) for name in names]
        self._held_limit_records = held_limit_records

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    @property
    def has_room(self) -> bool:
        """Whether more records should be fetched."""
        rooms = [lane.buffer.has_room for lane in self._lanes]
        return all(rooms) or (any(rooms) and sum(len(lane.buffer) for lane in self._lanes) < self._held_limit_records)

    def split(self, records: Sequence[RawRecord]) -> dict[Lane, Sequence[RawRecord]]:
        """The lanes of the records, with their records in order."""
        if len(self._lanes) == 1:
            return {self._lanes[0]: records}
        found: dict[Lane, list[RawRecord]] = {}
        for record in records:
            found.setdefault(self._lanes[shard_of(record.key or b"", len(self._lanes))], []).append(record)
        return dict(found)
