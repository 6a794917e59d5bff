"""Encodes and decodes the records of a topic. Invalid records are detected and classified here, and nowhere else."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from reaseq.errors import InvalidRecord
from reaseq.records import Event, Item, describe_wrong_time
from streams.delivery.topics import TOPIC_BY_MESSAGE, Topic

ORIGIN_HEADER = "reaseq-origin-ms"
ERROR_LIMIT_CHARS = 500
INTEGER_LIMIT_DIGITS = 15
EXACT_INTEGER_LIMIT = 2**53  # up to which a float is one integer
NUMBER_LIMIT = 1e30  # of a wrong number that is quoted
TIME_PATH = "$.event_time_ms"
LOG_APPEND_TIME = 1  # the type of a timestamp that the broker sets when it appends the record

_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # the last one: JSON that is nested too deeply

Headers = tuple[tuple[str, bytes], ...]


class RawRecord(NamedTuple):
    """A record in the form in which the broker stores it."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int  # when it was produced
    headers: Headers = ()
    partition: int = 0
    offset: int = 0
    broker_time: bool = False  # whether `timestamp_ms` is by the broker's clock, rather than the producer's

    @classmethod
    def from_broker(cls, record: Any) -> "RawRecord":
        """From a consumer record of kafka-python or aiokafka, which have the same attributes."""
        return cls(
            record.topic,
            record.key,
            record.value,
            record.timestamp,
            tuple(record.headers),
            record.partition,
            record.offset,
            record.timestamp_type == LOG_APPEND_TIME,
        )


class Message(NamedTuple):
    """A decoded record."""

    key: str
    body: Any  # None for a tombstone
    origin_ms: int  # when the input that led to this record was produced
    offset: int = 0  # of the record in its partition
    produced_ms: int = 0  # the record's timestamp
    partition: int = 0


class _Head(msgspec.Struct):
    schema: Any = None
    event_time_ms: Any = None


class _Untyped(msgspec.Struct, tag_field="schema", tag=""):
    """Turns the message type into a union, because msgspec requires the tag field only in a union."""


def encode(record: msgspec.Struct, origin_ms: int, extra_headers: Headers = ()) -> RawRecord:
    """Encode a record for its topic."""
    topic = TOPIC_BY_MESSAGE[type(record)]
    headers = ((ORIGIN_HEADER, str(origin_ms).encode()), *extra_headers)
    return RawRecord(topic.name, topic.key(record).encode(), msgspec.json.encode(record), origin_ms, headers)


class Decoder:
    """Decodes and validates the records of one topic. Rejects events more than `future_limit_s` ahead of the clock.

    The clock is the broker's at the time when it appended the record, so that all readers agree, whatever their clocks say and
    whenever they read. Only where a topic has the producers' timestamps, which may claim anything, it is the reader's own.
    """

    def __init__(self, topic: Topic, future_limit_s: float) -> None:
        self._topic = topic
        self._is_input = topic.message in (Item, Event)
        self._future_limit_ms = int(future_limit_s * 1000)
        self._body = msgspec.json.Decoder(topic.message | _Untyped)

    def decode(self, raw: RawRecord, now_ms: int) -> Message:
        """The message in `raw`. Raises InvalidRecord with a reason code and the path of the invalid field."""
        if raw.broker_time:
            now_ms = raw.timestamp_ms
        key = _decode_key(raw, self._topic.key_limit_chars)
        origin_ms = _read_origin_ms(raw, now_ms)
        if raw.value is None:
            if not self._topic.null_meaning:
                raise InvalidRecord(
                    "empty_value", f"{raw.topic} does not allow null values, but the value of key {key!r} is null"
                )
            return Message(key, None, origin_ms, raw.offset, raw.timestamp_ms, raw.partition)
        body = self._parse(raw.value)
        if (body_key := self._topic.key(body)) != key:
            raise InvalidRecord("key_mismatch", f"the record's key is {key!r}, but its body belongs to {body_key!r}")
        if self._is_input:
            self._check_time(body.event_time_ms, now_ms)
        return Message(key, body, origin_ms, raw.offset, raw.timestamp_ms, raw.partition)

    def _check_time(self, time_ms: int, now_ms: int) -> None:
        if time_ms > now_ms + self._future_limit_ms:
            ahead_s = (time_ms - now_ms) / 1000
            raise InvalidRecord("from_the_future", f"event time is {ahead_s:.0f} s ahead of the clock - at `{TIME_PATH}`")
        if problem := describe_wrong_time(time_ms):
            raise _wrong_time(time_ms, problem)

    def _parse(self, value: bytes) -> Any:
        try:
            body = self._decode(value)
        except msgspec.ValidationError as error:
            raise self._to_invalid_record(value, str(error)[:ERROR_LIMIT_CHARS]) from error
        except _MALFORMED as error:
            raise InvalidRecord("malformed_json", str(error)[:ERROR_LIMIT_CHARS]) from error
        if isinstance(body, _Untyped):
            raise InvalidRecord("unknown_schema", "the schema is empty - at `$.schema`")
        return body

    def _decode(self, value: bytes) -> Any:
        try:
            return self._body.decode(value)
        except msgspec.ValidationError as error:
            try:
                usual = _to_usual_form(msgspec.json.decode(value))
            except _MALFORMED:
                raise error from None
            return self._body.decode(msgspec.json.encode(usual))

    def _to_invalid_record(self, value: bytes, problem: str) -> InvalidRecord:
        try:
            head = msgspec.json.decode(value, type=_Head)
        except _MALFORMED:
            return InvalidRecord("invalid_field", problem)
        if head.schema != self._topic.message.__struct_config__.tag:  # type: ignore[attr-defined]
            return InvalidRecord("unknown_schema", problem)
        time = head.event_time_ms
        if TIME_PATH in problem and type(time) in (int, float) and abs(time) < NUMBER_LIMIT:
            return _wrong_time(time, describe_wrong_time(time) or "is not a whole number")
        return InvalidRecord("invalid_field", problem)


def _wrong_time(time_ms: float, problem: str) -> InvalidRecord:
    return InvalidRecord("wrong_time_unit", f"event time {time_ms} {problem} - at `{TIME_PATH}`")


def _to_usual_form(value: Any) -> Any:
    """The value as most producers write it: absent members instead of null ones, and whole numbers without a fraction."""
    if isinstance(value, dict):
        return {name: _to_usual_form(member) for name, member in value.items() if member is not None}
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_INTEGER_LIMIT:
        return int(value)
    return [_to_usual_form(element) for element in value] if isinstance(value, list) else value


def get_header(headers: Sequence[tuple[str, bytes]], name: str) -> bytes | None:
    """The last header with that name; None if there is none."""
    for key, value in reversed(headers):
        if key == name:
            return value
    return None


def get_int_header(headers: Sequence[tuple[str, bytes]], name: str) -> int | None:
    """The non-negative integer in the last header with that name; None if it is missing or not such a number."""
    digits = get_header(headers, name) or b""
    return int(digits) if digits.isdigit() and len(digits) <= INTEGER_LIMIT_DIGITS else None


def _decode_key(raw: RawRecord, limit_chars: int) -> str:
    if not raw.key:
        raise InvalidRecord("missing_key", f"the record has no key; the key of a record of {raw.topic} must be the entity's id")
    try:
        key = raw.key.decode()
    except UnicodeDecodeError as error:
        raise InvalidRecord("invalid_key", f"the key is not UTF-8: {error}") from error
    if len(key) > limit_chars:  # the body's id has a limit as well, but a tombstone has no body
        raise InvalidRecord("invalid_key", f"the key has {len(key)} characters; the limit is {limit_chars}")
    return key


def _read_origin_ms(raw: RawRecord, now_ms: int) -> int:
    """The origin time; now if it is unknown (0 or less), or later: brokers reject records from the future."""
    header_ms = get_int_header(raw.headers, ORIGIN_HEADER) if raw.headers else None
    origin_ms = raw.timestamp_ms if header_ms is None else header_ms
    return origin_ms if 0 < origin_ms <= now_ms else now_ms
