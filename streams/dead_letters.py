"""Dead letters: a record that could not be processed, with its original bytes and headers, and why."""

from typing import NamedTuple

from streams.messages import Headers, RawRecord, header
from streams.topics import DEAD_LETTERS

PREFIX = "reaseq-dead-"
MESSAGE_LIMIT_BYTES = 2000


class DeadLetter(NamedTuple):
    """What the headers of a dead letter say."""

    source: str
    stage: str
    reason: str
    message: str
    attempts: int
    first_failure_ms: int
    last_failure_ms: int


def bury(raw: RawRecord, stage: str, reason: str, message: str, now_ms: int) -> RawRecord:
    """The dead letter of `raw`. A letter that was replayed and failed again counts on from where it was."""
    attempts = int(header(raw.headers, f"{PREFIX}attempts") or 0) + 1
    first = header(raw.headers, f"{PREFIX}first-failure-ms") or str(now_ms).encode()
    kept = tuple((name, value) for name, value in raw.headers if not name.startswith(PREFIX))
    notes: Headers = (
        (f"{PREFIX}source", raw.topic.encode()),
        (f"{PREFIX}stage", stage.encode()),
        (f"{PREFIX}reason", reason.encode()),
        (f"{PREFIX}message", message.encode(errors="replace")[:MESSAGE_LIMIT_BYTES]),
        (f"{PREFIX}attempts", str(attempts).encode()),
        (f"{PREFIX}first-failure-ms", first),
        (f"{PREFIX}last-failure-ms", str(now_ms).encode()),
    )
    return RawRecord(DEAD_LETTERS.name, raw.key, raw.value, now_ms, kept + notes)


def read(raw: RawRecord) -> DeadLetter:
    """What a record of the dead-letters topic says of itself."""

    def text(name: str) -> str:
        return (header(raw.headers, PREFIX + name) or b"").decode(errors="replace")

    return DeadLetter(
        text("source"),
        text("stage"),
        text("reason"),
        text("message"),
        int(text("attempts") or 0),
        int(text("first-failure-ms") or 0),
        int(text("last-failure-ms") or 0),
    )
