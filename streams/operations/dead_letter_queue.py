"""The dead letters of a running system: which are open, and what becomes of them."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice

import msgspec

from reaseq.errors import BrokerUnavailable, DeliveryError, ReaSeqError
from reaseq.readers import FeatureReader
from reaseq.records import ItemFeatures, UserFeatures
from reaseq.settings import KafkaSettings
from streams.contract import dead_letters
from streams.contract.dead_letters import DeadLetter
from streams.contract.messages import RawRecord, encode
from streams.contract.topics import DEAD_LETTERS, ITEM_FEATURES, USER_FEATURES
from streams.runtime.kafka_clients import Producer, read_all

PAGE_LETTERS = 500


@dataclass(frozen=True)
class Filter:
    """Which letters are meant. Names may hold wildcards (`*`); times are milliseconds since the epoch."""

    id: str = "*"
    topic: str = "*"
    stage: str = "*"
    reason: str = "*"
    key: str = "*"
    since_ms: int = 0

    def takes(self, letter: DeadLetter) -> bool:
        """Whether the letter is meant."""
        told = (
            letter.id,
            letter.record.topic,
            letter.stage,
            letter.reason,
            (letter.record.key or b"").decode(errors="replace"),
        )
        wanted = (self.id, self.topic, self.stage, self.reason, self.key)
        return letter.last_failure_ms >= self.since_ms and all(map(fnmatchcase, told, wanted))


@dataclass(frozen=True)
class Replayed:
    """What became of the letters that a replay met."""

    produced: int
    left: int  # in quarantine, or too large to be kept whole


class DeadLetterQueue:
    """Letters that nobody has dealt with. One that failed `quarantine_attempts` times is in quarantine."""

    def __init__(self, settings: KafkaSettings, quarantine_attempts: int) -> None:
        self._settings = settings
        self._quarantine_attempts = quarantine_attempts

    def open(self, which: Filter = Filter()) -> Iterator[DeadLetter]:
        """The open letters, partition by partition, oldest first. Reads the topic twice and remembers its keys alone."""
        last: dict[bytes | None, tuple[int, int]] = {}
        for raw in read_all(self._settings, DEAD_LETTERS):
            last[raw.key] = (raw.partition, raw.offset)
        for raw in read_all(self._settings, DEAD_LETTERS):
            if raw.value is not None and last.get(raw.key) == (raw.partition, raw.offset):
                letter = dead_letters.read(raw)
                if which.takes(letter):
                    yield letter

    def counts(self) -> Counter[tuple[str, str]]:
        """How many open letters each (stage, reason) has."""
        return Counter((letter.stage, letter.reason) for letter in self.open())

    def in_quarantine(self, letter: DeadLetter) -> bool:
        """Whether the letter has failed too often to be replayed unasked."""
        return letter.attempts >= self._quarantine_attempts

    def _is_due(self, letter: DeadLetter, quarantined: bool) -> bool:
        return not letter.cut_bytes and (quarantined or not self.in_quarantine(letter))

    def replay(
        self,
        which: Filter,
        present: FeatureReader,
        quarantined: bool = False,
        progress: Callable[[int], None] = lambda met: None,
    ) -> Replayed:
        """Produce the records of the letters anew, then take the letters away, page by page, each confirmed.

        Stopped in between, a record is produced again next time, which changes nothing. Those in quarantine stay, unless
        `quarantined` asks for them, and always those of which only the beginning was kept.
        """
        producer, produced, met, letters = Producer(self._settings), 0, 0, self.open(which)
        try:
            while page := list(islice(letters, PAGE_LETTERS)):
                due = [letter for letter in page if self._is_due(letter, quarantined)]
                producer.send_raw([_newest(letter, present) for letter in due])
                producer.send_raw(map(_taken_away, due))
                produced, met = produced + len(due), met + len(page)
                progress(len(page))
        finally:
            producer.close()
        return Replayed(produced, met - produced)

    def discard(self, which: Filter) -> int:
        """Take letters away without replaying them; returns how many."""
        return self._take_away(letter for letter in self.open(which))

    def forget(self, user_ids: Sequence[str]) -> int:
        """Take away every letter that bears a user's id, as its key or as a string in its bytes; returns how many.

        Raises BrokerUnavailable.
        """
        theirs = (letter for letter in self.open() if any(_bears(letter.record, user_id) for user_id in user_ids))
        try:
            return self._take_away(theirs)
        except DeliveryError as error:
            raise BrokerUnavailable(f"dead letters cannot be forgotten: {error}") from error

    def _take_away(self, letters: Iterator[DeadLetter]) -> int:
        producer = Producer(self._settings)
        try:
            return producer.send_raw(map(_taken_away, letters))
        finally:
            producer.close()


def _newest(letter: DeadLetter, present: FeatureReader) -> RawRecord:
    """What to produce in a letter's place: of a feature record, the newest of its entity.

    An older one must not become the last of a compacted topic.
    """
    again = letter.again(int(time.time() * 1000))
    held: dict[str, ItemFeatures] | dict[str, UserFeatures]
    kind: type[ItemFeatures] | type[UserFeatures]
    match letter.record.topic:
        case ITEM_FEATURES.name:
            kind, held = ItemFeatures, present.read_items([(letter.record.key or b"").decode(errors="replace")])
        case USER_FEATURES.name:
            kind, held = UserFeatures, present.read_users([(letter.record.key or b"").decode(errors="replace")])
        case _:
            return again
    try:
        told = msgspec.json.decode(letter.record.value or b"", type=kind)
    except msgspec.DecodeError as error:
        raise ReaSeqError(f"{letter.id} is no feature record and cannot be replayed (discard it): {error}") from error
    for record in held.values():
        if record.version > told.version:
            return again._replace(value=encode(record, again.timestamp_ms).value)
    return again


def _taken_away(letter: DeadLetter) -> RawRecord:
    return RawRecord(DEAD_LETTERS.name, letter.id.encode(), None, int(time.time() * 1000))


def _bears(record: RawRecord, user_id: str) -> bool:
    written = (json.dumps(user_id).encode(), msgspec.json.encode(user_id))  # with and without escapes
    return record.key == user_id.encode() or any(string in (record.value or b"") for string in written)
