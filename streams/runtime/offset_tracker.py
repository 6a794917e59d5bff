"""Tracks finished batches by partition, and the offsets that can be committed.

Faust's own tracking is not used: in a rebalance it acknowledges the records that it skips and forgets its position, and may
then commit past records that no stage has finished.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from streams.delivery.messages import RawRecord

Partition = tuple[str, int]  # topic, number
StartOffsets = dict[Partition, int]  # the first offset of a batch in each of its partitions


class OffsetTracker:
    """Tracks one assignment. Several readers may read one topic, all of it or a part; each starts its records of a partition in
    order. A stage is a reader, or several: one for each shard of the store.
    """

    def __init__(self, readers: Mapping[str, Iterable[str]]) -> None:
        """`readers`: the readers of each topic."""
        self._readers = readers
        self._running: dict[tuple[str, Partition], Counter[int]] = {}  # number of running batches, by start offset
        self._next: dict[tuple[str, Partition], int] = {}  # offset after the last started record
        self._put: dict[tuple[str, Partition], int] = {}  # offset after the last record that the reader has to start
        self._fetched: dict[Partition, int] = {}  # offset after the last fetched record
        self._reached: dict[Partition, int] = {}  # offset up to which the consumer has read
        self._committed: dict[Partition, int] = {}

    def fetch(self, ends: Mapping[Partition, int], positions: Mapping[Partition, int]) -> None:
        """Record the offset after the last fetched record, and the position that the consumer has reached.

        Between them are only offsets without a record, such as transaction markers.
        """
        self._fetched |= ends
        self._reached |= positions

    def put(self, reader: str, records: Sequence[RawRecord]) -> None:
        """Record that a reader has to start these of the fetched records, which are of one partition, and no others."""
        last = records[-1]
        self._put[reader, (last.topic, last.partition)] = last.offset + 1

    def start(self, reader: str, batch: Sequence[RawRecord]) -> StartOffsets:
        """Record that a reader starts a batch; returns the argument for `finish`."""
        starts = {(record.topic, record.partition): record.offset for record in reversed(batch)}
        lasts = {(record.topic, record.partition): record.offset for record in batch}
        for partition, offset in starts.items():
            self._next[reader, partition] = max(lasts[partition] + 1, self._next.get((reader, partition), 0))
            self._running.setdefault((reader, partition), Counter())[offset] += 1
        return starts

    def finish(self, reader: str, starts: StartOffsets) -> None:
        """Record that a reader has finished a batch. Batches may finish in any order."""
        for partition, offset in starts.items():
            self._running[reader, partition] -= Counter([offset])

    def to_commit(self) -> dict[Partition, int]:
        """The offsets to commit, for partitions where they have advanced: all readers have finished all records before."""
        offsets = {}
        for partition in {partition for _, partition in self._next} | self._reached.keys():
            finished = min(self._finished(reader, partition) for reader in self._readers[partition[0]])
            if finished >= self._fetched.get(partition, 0):
                finished = max(finished, self._reached.get(partition, 0))
            if finished > self._committed.get(partition, 0):
                offsets[partition] = finished
        return offsets

    def mark_committed(self, offsets: Mapping[Partition, int]) -> None:
        """Record that the broker has committed these offsets."""
        self._committed.update(offsets)

    def _finished(self, reader: str, partition: Partition) -> int:
        """The offset before which the reader has finished all its records."""
        started = self._next.get((reader, partition), 0)
        all_started = started == self._put.get((reader, partition), 0)
        idle = self._fetched.get(partition, started) if all_started else started
        return min(self._running.get((reader, partition), ()), default=idle)
