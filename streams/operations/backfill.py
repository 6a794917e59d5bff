"""Backfill: produces the records of a source file to its topic, at a limited rate."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from reaseq.artifacts import write_atomically
from reaseq.knowledge.content import digest
from reaseq.records import TIME_LIMIT_MS
from streams.delivery.dead_letters import to_dead_letter
from streams.delivery.messages import RawRecord
from streams.delivery.topics import Topic
from streams.operations.replay import at_rate
from streams.sources.source_file import SourceFile
from streams.sources.spool import Spool, SpooledRecord

STAGE = "backfill"
REASON = "refused_row"


class RecordSender(Protocol):
    """The producer."""

    def send_raw(self, records: Sequence[RawRecord]) -> int: ...


class Progress:
    """How many records of a file earlier runs have produced to a topic.

    It belongs to a topic by its id, which a topic of that name in another cluster, or one that was created anew, does not have.
    """

    def __init__(self, folder: Path, topic_id: str, source: SourceFile) -> None:
        self._file = folder / f"{digest(topic_id, source.identity)}.json"
        self.done = int(json.loads(self._file.read_text())["rows"]) if self._file.exists() else 0

    def advance(self, records: int) -> None:
        """Record that further records are produced."""
        self.done += records
        write_atomically(self._file, json.dumps({"rows": self.done}).encode())


class Backfill:
    """Produces the records of `spool`, which come from a file named `name`, to a topic."""

    def __init__(self, spool: Spool, name: str, topic: Topic, producer: RecordSender, dead_letter_limit_bytes: int) -> None:
        self._spool = spool
        self._name = name
        self._topic = topic
        self._producer = producer
        self._dead_letter_limit_bytes = dead_letter_limit_bytes

    def run(
        self,
        progress: Progress,
        rate_per_s: float,
        until_ms: int = TIME_LIMIT_MS,
        on_progress: Callable[[int], None] = lambda records: None,
    ) -> int:
        """Produce the records before `until_ms`, at most `rate_per_s` per second, from where an earlier run stopped.

        Refused rows become dead letters. Calls `on_progress` with the number of records of each step. Returns their number.
        """
        produced = 0
        on_progress(progress.done)
        for chunk in at_rate(self._spool.read(until_ms, progress.done), rate_per_s):
            self._producer.send_raw([self._to_record(record) for record in chunk])
            progress.advance(len(chunk))
            produced += len(chunk)
            on_progress(len(chunk))
        return produced

    def _to_record(self, record: SpooledRecord) -> RawRecord:
        now_ms = int(time.time() * 1000)
        raw = RawRecord(self._topic.name, record.key.encode(), record.value, now_ms)
        if not record.refusal:
            return raw
        message = f"{self._name}, {record.refusal}"
        dead_letter = to_dead_letter(raw, STAGE, REASON, message, now_ms, self._dead_letter_limit_bytes)
        return dead_letter._replace(key=f"{self._topic.name}/{self._name}/{record.row}/{STAGE}".encode())
