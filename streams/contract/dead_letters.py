"""Dead letters: a record that could not be processed, with its original bytes and headers, and why.

A letter's key names the record that died and the stage it died in, so a record that is delivered twice leaves one letter, and
one that has been replayed, or must be forgotten, is taken away by a tombstone of that key.

A producer's compression lets records through that are larger than a letter may be. Of such a one the letter keeps the
beginning, and its id says where the rest lies.
"""

from dataclasses import dataclass

from streams.contract.messages import Headers, RawRecord, header, number
from streams.contract.topics import DEAD_LETTERS

PREFIX = "reaseq-dead-"
ATTEMPTS, FIRST_FAILURE, LAST_FAILURE = (f"{PREFIX}{name}" for name in ("attempts", "first-failure-ms", "last-failure-ms"))
CUT = f"{PREFIX}cut-bytes"
MESSAGE_LIMIT_BYTES = 2000
KEPT_KEY_BYTES, KEPT_VALUE_BYTES = 1024, 64 * 1024  # of a record that is too large


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter: the record as it was, and what is known of its failures."""

    id: str
    record: RawRecord  # as it lay in its topic, but for the time of its production
    stage: str
    reason: str
    message: str
    attempts: int
    first_failure_ms: int
    last_failure_ms: int
    cut_bytes: int  # what has not been kept of a record that was too large

    def again(self, now_ms: int) -> RawRecord:
        """The record to produce anew; its headers bear the failures so far, so that another one counts on."""
        failures = ((ATTEMPTS, str(self.attempts).encode()), (FIRST_FAILURE, str(self.first_failure_ms).encode()))
        return self.record._replace(timestamp_ms=now_ms, headers=self.record.headers + failures)


def to_dead_letter(raw: RawRecord, stage: str, reason: str, message: str, now_ms: int, limit_bytes: int) -> RawRecord:
    """The record of `raw`'s dead letter. One that was replayed and failed again counts on from where it was.

    `limit_bytes`: the largest record that is kept whole.
    """
    whole_bytes = _size_bytes(raw)
    if whole_bytes > limit_bytes:
        key, value = raw.key and raw.key[:KEPT_KEY_BYTES], raw.value and raw.value[:KEPT_VALUE_BYTES]
        raw = raw._replace(key=key, value=value, headers=())
    notes = {
        ATTEMPTS: str((number(raw.headers, ATTEMPTS) or 0) + 1).encode(),
        FIRST_FAILURE: str(number(raw.headers, FIRST_FAILURE) or now_ms).encode(),
        LAST_FAILURE: str(now_ms).encode(),
        f"{PREFIX}topic": raw.topic.encode(),
        f"{PREFIX}stage": stage.encode(),
        f"{PREFIX}reason": reason.encode(),
        f"{PREFIX}message": message.encode(errors="replace")[:MESSAGE_LIMIT_BYTES],
    }
    if raw.key is not None:
        notes[f"{PREFIX}key"] = raw.key
    if cut_bytes := whole_bytes - _size_bytes(raw):
        notes[CUT] = str(cut_bytes).encode()
    if raw.value is None:  # which as a letter's value would take the letter away
        notes[f"{PREFIX}null"] = b""
    key = f"{raw.topic}/{raw.partition}/{raw.offset}/{stage}".encode()
    return RawRecord(DEAD_LETTERS.name, key, raw.value or b"", now_ms, _foreign(raw.headers) + tuple(notes.items()))


def read(raw: RawRecord) -> DeadLetter:
    """The letter that a record of the dead letters' topic is."""

    def text(name: str) -> str:
        return (header(raw.headers, PREFIX + name) or b"").decode(errors="replace")

    value = None if header(raw.headers, f"{PREFIX}null") is not None else raw.value
    return DeadLetter(
        id=(raw.key or b"").decode(errors="replace"),
        record=RawRecord(text("topic"), header(raw.headers, f"{PREFIX}key"), value, raw.timestamp_ms, _foreign(raw.headers)),
        stage=text("stage"),
        reason=text("reason"),
        message=text("message"),
        attempts=number(raw.headers, ATTEMPTS) or 0,
        first_failure_ms=number(raw.headers, FIRST_FAILURE) or 0,
        last_failure_ms=number(raw.headers, LAST_FAILURE) or 0,
        cut_bytes=number(raw.headers, CUT) or 0,
    )


def _size_bytes(raw: RawRecord) -> int:
    return len(raw.key or b"") + len(raw.value or b"") + sum(len(name) + len(value or b"") for name, value in raw.headers)


def _foreign(headers: Headers) -> Headers:
    """The headers that the record came with."""
    return tuple((name, value) for name, value in headers if not name.startswith(PREFIX))
