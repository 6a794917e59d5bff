"""The dead-letter queue of a running system: reads, replays, discards and erases dead letters."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import msgspec

from reaseq.errors import BrokerUnavailable, DeliveryError, ReaSeqError
from reaseq.records import FeatureRecord
from reaseq.settings import KafkaSettings
from streams.delivery.dead_letters import DeadLetter
from streams.delivery.messages import RawRecord, encode
from streams.delivery.topics import DEAD_LETTERS, FEATURE_TOPICS
from streams.runtime.kafka.producer import Producer
from streams.runtime.kafka.reader import read_all

REPLAY_PAGE = 500  # dead letters


class RecordReader(Protocol):
    """The store."""

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """The stored records of the same entities."""
        ...


@dataclass(frozen=True)
class Filter:
    """Selects dead letters. Names may contain wildcards (`*`)."""

    id: str = "*"
    topic: str = "*"
    stage: str = "*"
    reason: str = "*"
    key: str = "*"
    since_ms: int = 0  # last failure at or after this time

    def matches(self, dead_letter: DeadLetter) -> bool:
        """Whether the dead letter is selected."""
        key = (dead_letter.record.key or b"").decode(errors="replace")
        names = (dead_letter.id, dead_letter.record.topic, dead_letter.stage, dead_letter.reason, key)
        patterns = (self.id, self.topic, self.stage, self.reason, self.key)
        return dead_letter.last_failure_ms >= self.since_ms and all(map(_matches, names, patterns))


def _matches(name: str, pattern: str) -> bool:
    """Whether the whole name fits the pattern; ids may contain the other characters that a shell treats as wildcards."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


@dataclass(frozen=True)
class ReplayResult:
    """The outcome of a replay, in dead letters."""

    produced: int
    skipped: int  # in quarantine, or cut because the record was too large


class DeadLetterQueue:
    """The open dead letters: those that have not been replayed, discarded or erased.

    A dead letter whose record has failed `quarantine_attempts` times is in quarantine.
    """

    def __init__(self, settings: KafkaSettings, quarantine_attempts: int) -> None:
        self._settings = settings
        self._quarantine_attempts = quarantine_attempts

    def read_open(self, matching: Filter = Filter()) -> Iterator[DeadLetter]:
        """The open dead letters, partition by partition, oldest first.

        Reads the topic twice, so that only its keys are kept in memory.
        """
        last: dict[bytes | None, tuple[int, int]] = {}
        for raw in read_all(self._settings, DEAD_LETTERS):
            last[raw.key] = (raw.partition, raw.offset)
        for raw in read_all(self._settings, DEAD_LETTERS):
            if raw.value is not None and last.get(raw.key) == (raw.partition, raw.offset):
                dead_letter = DeadLetter.from_record(raw)
                if matching.matches(dead_letter):
                    yield dead_letter

    def counts(self) -> Counter[tuple[str, str]]:
        """The number of open dead letters by (stage, reason)."""
        return Counter((dead_letter.stage, dead_letter.reason) for dead_letter in self.read_open())

    def in_quarantine(self, dead_letter: DeadLetter) -> bool:
        """Whether the record has failed too often to be replayed by default."""
        return dead_letter.attempts >= self._quarantine_attempts

    def replay(
        self,
        matching: Filter,
        store: RecordReader,
        quarantined: bool = False,
        progress: Callable[[int], None] = lambda dead_letters: None,
    ) -> ReplayResult:
        """Page by page, produce the records of the dead letters again, then delete the dead letters. Each step is confirmed.

        If a replay is interrupted, the next one produces some records again; stages are idempotent, so this changes nothing.
        Skips dead letters in quarantine, unless `quarantined` is set, and those that were cut. Calls `progress` with the
        size of each page.
        """
        producer, produced, read, dead_letters = Producer(self._settings), 0, 0, self.read_open(matching)
        try:
            while page := list(islice(dead_letters, REPLAY_PAGE)):
                due = [dead_letter for dead_letter in page if self._is_due(dead_letter, quarantined)]
                producer.send_raw([_build_replay(dead_letter, store) for dead_letter in due])
                producer.send_raw(map(_build_tombstone, due))
                produced, read = produced + len(due), read + len(page)
                progress(len(page))
        finally:
            producer.close()
        return ReplayResult(produced, read - produced)

    def discard(self, matching: Filter) -> int:
        """Delete dead letters without replaying them. Returns how many."""
        return self._delete(self.read_open(matching))

    def erase(self, user_ids: Sequence[str]) -> int:
        """Delete every dead letter whose record has a user's id as its key or as a string in its value. Returns how many.

        Raises BrokerUnavailable.
        """
        found = (
            dead_letter
            for dead_letter in self.read_open()
            if any(_mentions(dead_letter.record, user_id) for user_id in user_ids)
        )
        try:
            return self._delete(found)
        except DeliveryError as error:
            raise BrokerUnavailable(f"cannot erase dead letters: {error}") from error

    def _is_due(self, dead_letter: DeadLetter, quarantined: bool) -> bool:
        return not dead_letter.cut_bytes and (quarantined or not self.in_quarantine(dead_letter))

    def _delete(self, dead_letters: Iterator[DeadLetter]) -> int:
        producer = Producer(self._settings)
        try:
            return producer.send_raw(map(_build_tombstone, dead_letters))
        finally:
            producer.close()


def _build_replay(dead_letter: DeadLetter, store: RecordReader) -> RawRecord:
    """The record to produce for a dead letter. A feature record is replaced by a newer one of its entity if the store has one.

    A compacted topic must not end with an older record.
    """
    replay = dead_letter.to_replay(int(time.time() * 1000))
    topic = next((topic for topic in FEATURE_TOPICS if topic.name == dead_letter.record.topic), None)
    if topic is None:
        return replay
    try:
        failed: FeatureRecord = msgspec.json.decode(dead_letter.record.value or b"", type=topic.message)
    except msgspec.DecodeError as error:
        raise ReaSeqError(
            f"{dead_letter.id} is not a valid feature record and cannot be replayed, only discarded: {error}"
        ) from error
    for record in store.newest([failed]):
        if record.version > failed.version:
            return replay._replace(value=encode(record, replay.timestamp_ms).value)
    return replay


def _build_tombstone(dead_letter: DeadLetter) -> RawRecord:
    return RawRecord(DEAD_LETTERS.name, dead_letter.id.encode(), None, int(time.time() * 1000))


def _mentions(record: RawRecord, user_id: str) -> bool:
    value = record.value or b""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the last one: JSON that is nested too deeply
        value = msgspec.json.encode(msgspec.json.decode(value))  # a string can be escaped in many ways
    strings = (json.dumps(user_id).encode(), msgspec.json.encode(user_id))  # as JSON with escapes, and as plain UTF-8
    return record.key == user_id.encode() or any(string in value for string in strings)
