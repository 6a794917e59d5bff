"""What has been finished of each partition, and so up to where it may be committed.

Faust's own account is not used: when partitions are handed out anew it acknowledges what it skips, forgets where it stood, and
may then commit behind records that nobody has finished.
"""

from collections.abc import Iterable, Mapping

Partition = tuple[str, int]  # topic and number
Place = tuple[Partition, int]  # and offset


class Offsets:
    """The account of one assignment. Several stages may read one topic; each takes a partition's records in their order."""

    def __init__(self, readers: Mapping[str, Iterable[str]]) -> None:
        """`readers`: by topic, the stages that read it."""
        self._readers = readers
        self._under_way: dict[tuple[str, Partition], set[int]] = {}
        self._next: dict[tuple[str, Partition], int] = {}  # behind the last that was taken
        self._committed: dict[Partition, int] = {}

    def taken(self, stage: str, places: Iterable[Place]) -> None:
        """A stage has begun with these records."""
        for partition, offset in places:
            self._under_way.setdefault((stage, partition), set()).add(offset)
            self._next[stage, partition] = offset + 1

    def finished(self, stage: str, places: Iterable[Place]) -> None:
        """A stage has done with these records, whatever it has done before with others."""
        for partition, offset in places:
            self._under_way[stage, partition].discard(offset)

    def to_commit(self) -> dict[Partition, int]:
        """Where each partition may be taken up again, as far as that has moved: behind what all its readers have finished."""
        found = {}
        for partition in {partition for _, partition in self._next}:
            reached = min(self._reached(stage, partition) for stage in self._readers[partition[0]])
            if reached > self._committed.get(partition, 0):
                found[partition] = reached
        return found

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """The broker has taken these."""
        self._committed.update(offsets)

    def _reached(self, stage: str, partition: Partition) -> int:
        return min(self._under_way.get((stage, partition), ()), default=self._next.get((stage, partition), 0))
