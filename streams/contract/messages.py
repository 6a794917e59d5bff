"""Bytes on a topic to records and back, and the one place where a bad message is recognised and named."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from reaseq.errors import InvalidRecord
from reaseq.records import Event, Item
from streams.contract.topics import TOPIC_OF, Topic

ORIGIN_HEADER = "reaseq-origin-ms"
ERROR_LIMIT_CHARS = 500
NUMBER_LIMIT_DIGITS = 15

Headers = tuple[tuple[str, bytes], ...]


class RawRecord(NamedTuple):
    """A record as the broker has it. `timestamp_ms` is when it was produced, by the producer's clock."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers = ()
    partition: int = 0
    offset: int = 0


class Message(NamedTuple):
    """A decoded record: `body` is None for a tombstone. `origin_ms`: when the input that led to it was produced."""

    key: str
    body: Any
    origin_ms: int


class _Head(msgspec.Struct):
    schema: Any = None


class _Untyped(msgspec.Struct, tag_field="schema", tag=""):
    """Stands beside a message type, since a tag is only asked for where there are several to tell apart."""


def encode(record: msgspec.Struct, origin_ms: int, further: Headers = ()) -> RawRecord:
    """A record ready to be produced to its topic, with further headers."""
    topic = TOPIC_OF[type(record)]
    headers = ((ORIGIN_HEADER, str(origin_ms).encode()), *further)
    return RawRecord(topic.name, topic.key(record).encode(), msgspec.json.encode(record), origin_ms, headers)


class Decoder:
    """Decodes and validates the records of one topic."""

    def __init__(self, topic: Topic, future_limit_s: float) -> None:
        self._topic = topic
        self._future_limit_ms = int(future_limit_s * 1000)
        self._body = msgspec.json.Decoder(topic.message | _Untyped)

    def decode(self, raw: RawRecord, now_ms: int) -> Message:
        """The message in `raw`. Raises InvalidRecord, which names what is wrong and where."""
        key = _key(raw)
        origin_ms = _origin(raw, now_ms)
        if raw.value is None:
            if not self._topic.nulls:
                raise InvalidRecord("empty_value", f"a null means nothing on {raw.topic}, and the value of key {key!r} is one")
            return Message(key, None, origin_ms)
        body = self._parse(raw.value)
        if (own := self._topic.key(body)) != key:
            raise InvalidRecord("key_mismatch", f"the record's key is {key!r}, its content is about {own!r}")
        if isinstance(body, Item | Event) and body.event_time_ms > now_ms + self._future_limit_ms:
            ahead_s = (body.event_time_ms - now_ms) / 1000
            raise InvalidRecord("from_the_future", f"event time is {ahead_s:.0f} s ahead of the clock - at `$.event_time_ms`")
        return Message(key, body, origin_ms)

    def _parse(self, value: bytes) -> Any:
        try:
            body = self._body.decode(value)
        except msgspec.ValidationError as error:
            raise InvalidRecord(self._reason(value), str(error)[:ERROR_LIMIT_CHARS]) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRecord("malformed_json", str(error)[:ERROR_LIMIT_CHARS]) from error
        except RecursionError as error:
            raise InvalidRecord("malformed_json", "nested too deeply") from error
        if isinstance(body, _Untyped):
            raise InvalidRecord("unknown_schema", "the schema is empty - at `$.schema`")
        return body

    def _reason(self, value: bytes) -> str:
        try:
            schema = msgspec.json.decode(value, type=_Head).schema
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "invalid_field"
        expected = self._topic.message.__struct_config__.tag  # type: ignore[attr-defined]
        return "invalid_field" if schema == expected else "unknown_schema"


def header(headers: Sequence[tuple[str, bytes]], name: str) -> bytes | None:
    """The last header of that name."""
    for key, value in reversed(headers):
        if key == name:
            return value
    return None


def _key(raw: RawRecord) -> str:
    if not raw.key:
        raise InvalidRecord("missing_key", f"a record of {raw.topic} needs the id of its entity as key")
    try:
        return raw.key.decode()
    except UnicodeDecodeError as error:
        raise InvalidRecord("invalid_key", f"the key is not UTF-8: {error}") from error


def number(headers: Sequence[tuple[str, bytes]], name: str) -> int | None:
    """The whole number in the last header of that name; None where there is none, whoever wrote what there."""
    digits = header(headers, name) or b""
    return int(digits) if digits.isdigit() and len(digits) <= NUMBER_LIMIT_DIGITS else None


def _origin(raw: RawRecord, now_ms: int) -> int:
    """A broker rejects records from the future, so a clock or a header that is ahead must not be passed on."""
    origin = number(raw.headers, ORIGIN_HEADER)
    return max(0, min(raw.timestamp_ms if origin is None else origin, now_ms))
