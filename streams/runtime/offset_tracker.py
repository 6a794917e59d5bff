"""What has been finished of each partition, and so up to where it may be committed.

Faust's own account is not used: when partitions are handed out anew it acknowledges what it skips, forgets where it stood, and
may then commit behind records that nobody has finished.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from streams.contract.messages import RawRecord

Partition = tuple[str, int]  # topic and number
StartOffsets = dict[Partition, int]  # the first offset of a batch in each of its partitions


class OffsetTracker:
    """The account of one assignment. Several stages may read one topic; each takes a partition's records in their order."""

    def __init__(self, readers: Mapping[str, Iterable[str]]) -> None:
        """`readers`: by topic, the stages that read it."""
        self._readers = readers
        self._under_way: dict[tuple[str, Partition], Counter[int]] = {}  # where batches start, and how many
        self._next: dict[tuple[str, Partition], int] = {}  # behind the last that was taken
        self._committed: dict[Partition, int] = {}

    def taken(self, stage: str, batch: Sequence[RawRecord]) -> StartOffsets:
        """A stage has begun with a batch; returns what `finished` wants to be told."""
        starts: StartOffsets = {}
        for record in batch:
            partition = (record.topic, record.partition)
            starts.setdefault(partition, record.offset)
            self._next[stage, partition] = max(record.offset + 1, self._next.get((stage, partition), 0))
        for partition, start in starts.items():
            self._under_way.setdefault((stage, partition), Counter())[start] += 1
        return starts

    def finished(self, stage: str, starts: StartOffsets) -> None:
        """A stage has done with a batch, whatever it has done before with others."""
        for partition, start in starts.items():
            self._under_way[stage, partition] -= Counter([start])

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
