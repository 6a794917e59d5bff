"""The contract of a stage: plain Python that turns a batch of messages into effects, independent of broker and runtime."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from reaseq.records import EventDelta, FeatureRecord
from streams.delivery.messages import Message
from streams.delivery.topics import Topic


@dataclass(frozen=True)
class BatchPolicy:
    """How a runtime batches the records of a stage."""

    limit_records: int  # largest batch
    wait_s: float  # longest time that a batch's first record waits for more
    in_flight: int = 1  # concurrent batches; more than one helps a stage that waits for a remote service


@dataclass
class Effects:
    """The result of a batch: feature records to produce and make servable, and outcomes to count.

    `deltas` are produced with the feature records, before any of these is servable: a stage finds them by comparing a message
    with what is stored, so a redelivery after the write would not find them again. It may find them again before the write, so
    their consumer must recognize them by their position in the source.

    `superseded` has records after which the newer stored record of their entity must stand in the topic: it is produced again.
    """

    records: list[FeatureRecord] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    superseded: list[FeatureRecord] = field(default_factory=list)
    deltas: list[EventDelta] = field(default_factory=list)

    def add(self, other: "Effects") -> None:
        """Add the effects of other messages of the batch."""
        self.records += other.records
        self.counts += other.counts
        self.superseded += other.superseded
        self.deltas += other.deltas


class Stage(Protocol):
    """One processing step of the stream.

    `process` must be idempotent, because a message may be delivered twice. If it raises Unavailable, the batch is retried; any
    other exception sends the message that causes it to the dead-letter queue.
    """

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> Topic: ...

    @property
    def batch(self) -> BatchPolicy: ...

    async def process(self, batch: Sequence[Message]) -> Effects:
        """The effects of a batch, in which messages with the same key are in order."""
        ...


@runtime_checkable
class Repeats(Protocol):
    """A stage that asks for records of its source to be processed again, although they were committed."""

    async def due_again(self) -> Sequence[FeatureRecord]:
        """The next such records; none if there are none now. Raises Unavailable."""
        ...
