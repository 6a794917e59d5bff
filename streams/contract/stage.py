"""The contract of a stage: plain Python that turns a batch of messages into effects. It knows no broker and no runtime."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reaseq.records import FeatureRecord
from streams.contract.messages import Message
from streams.contract.topics import Topic


@dataclass(frozen=True)
class BatchPolicy:
    """How many records a batch holds at most, how long the first of them waits for the others, and how many batches may be
    under way at once: more than one suits a stage that waits for somebody else."""

    limit_records: int
    wait_s: float
    in_flight: int = 1


@dataclass
class Effects:
    """What a batch leads to: feature records to produce and make servable, and outcomes worth counting."""

    records: list[FeatureRecord] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Stage(Protocol):
    """One step of the stream.

    `process` may see a message twice and must then lead to the same end. It may raise: Unavailable is retried, any
    other exception sends the message it stems from to the dead letters.
    """

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> Topic: ...

    @property
    def batch(self) -> BatchPolicy: ...

    async def process(self, batch: Sequence[Message]) -> Effects:
        """The effects of a batch; messages of one key are in their order."""
        ...
