"""Dead letters: records that could not be processed, with their original bytes and headers, and the reason.

A dead letter's key is the failed record's topic, partition and offset, and the stage in which it failed. A record that is
delivered twice therefore leaves one dead letter, and a tombstone with that key deletes it after a replay or an erasure request.

A record that was produced compressed may be too large for a dead letter once it is decompressed. Its dead letter keeps only the
beginning of the key and value; the dead letter's id says where the whole record is.
"""

from dataclasses import dataclass

from streams.delivery.messages import Headers, RawRecord, get_header, get_int_header
from streams.delivery.topics import DEAD_LETTERS

PREFIX = "reaseq-dead-"
ATTEMPTS, FIRST_FAILURE, LAST_FAILURE = (f"{PREFIX}{name}" for name in ("attempts", "first-failure-ms", "last-failure-ms"))
CUT = f"{PREFIX}cut-bytes"
MESSAGE_LIMIT_BYTES = 2000
KEPT_KEY_BYTES, KEPT_VALUE_BYTES = 1024, 64 * 1024  # of a record that is too large


@dataclass(frozen=True)
class DeadLetter:
    """A failed record and its failures."""

    id: str
    record: RawRecord  # as produced to its topic, except for `timestamp_ms`
    stage: str
    reason: str
    message: str
    attempts: int
    first_failure_ms: int
    last_failure_ms: int
    cut_bytes: int  # bytes dropped from a record that was too large

    @classmethod
    def from_record(cls, raw: RawRecord) -> "DeadLetter":
        """Decode a record of the dead-letter topic."""

        def text(name: str) -> str:
            return (get_header(raw.headers, PREFIX + name) or b"").decode(errors="replace")

        key = get_header(raw.headers, f"{PREFIX}key")
        value = None if get_header(raw.headers, f"{PREFIX}null") is not None else raw.value
        return cls(
            id=(raw.key or b"").decode(errors="replace"),
            record=RawRecord(text("topic"), key, value, raw.timestamp_ms, _original_headers(raw.headers)),
            stage=text("stage"),
            reason=text("reason"),
            message=text("message"),
            attempts=get_int_header(raw.headers, ATTEMPTS) or 0,
            first_failure_ms=get_int_header(raw.headers, FIRST_FAILURE) or 0,
            last_failure_ms=get_int_header(raw.headers, LAST_FAILURE) or 0,
            cut_bytes=get_int_header(raw.headers, CUT) or 0,
        )

    def to_replay(self, now_ms: int) -> RawRecord:
        """The record to produce again. Its headers carry the failures so far, so that another failure continues the count."""
        failures = ((ATTEMPTS, str(self.attempts).encode()), (FIRST_FAILURE, str(self.first_failure_ms).encode()))
        return self.record._replace(timestamp_ms=now_ms, headers=self.record.headers + failures)


def to_dead_letter(raw: RawRecord, stage: str, reason: str, message: str, now_ms: int, limit_bytes: int) -> RawRecord:
    """Encode the dead letter of `raw`. If `raw` is a replay, the count of its attempts continues.

    A record of more than `limit_bytes` is cut.
    """
    whole_bytes = size_bytes(raw)
    if whole_bytes > limit_bytes:
        key, value = raw.key and raw.key[:KEPT_KEY_BYTES], raw.value and raw.value[:KEPT_VALUE_BYTES]
        raw = raw._replace(key=key, value=value, headers=())
    notes = {
        ATTEMPTS: str((get_int_header(raw.headers, ATTEMPTS) or 0) + 1).encode(),
        FIRST_FAILURE: str(get_int_header(raw.headers, FIRST_FAILURE) or now_ms).encode(),
        LAST_FAILURE: str(now_ms).encode(),
        f"{PREFIX}topic": raw.topic.encode(),
        f"{PREFIX}stage": stage.encode(),
        f"{PREFIX}reason": reason.encode(),
        f"{PREFIX}message": message.encode(errors="replace")[:MESSAGE_LIMIT_BYTES],
    }
    if raw.key is not None:
        notes[f"{PREFIX}key"] = raw.key
    if cut_bytes := whole_bytes - size_bytes(raw):
        notes[CUT] = str(cut_bytes).encode()
    if raw.value is None:  # a null value would be a tombstone and delete the dead letter
        notes[f"{PREFIX}null"] = b""
    key = f"{raw.topic}/{raw.partition}/{raw.offset}/{stage}".encode()
    return RawRecord(DEAD_LETTERS.name, key, raw.value or b"", now_ms, _original_headers(raw.headers) + tuple(notes.items()))


def size_bytes(raw: RawRecord) -> int:
    """What counts toward the limit of a record's size: key, value and headers."""
    return len(raw.key or b"") + len(raw.value or b"") + sum(len(name) + len(value or b"") for name, value in raw.headers)


def _original_headers(headers: Headers) -> Headers:
    return tuple((name, value) for name, value in headers if not name.startswith(PREFIX))
