"""The packed row: one value holds all features of one entity in one view, and says which of two rows is newer.

    row     = order (24 bytes) + entries
    order   = event time in µs, revision, digest of the entries: three unsigned 64-bit integers, big endian
    entry   = crc32 of the feature's name, length, and Feast's own serialised value

A row wins over another when its order is greater. The event time comes first; `revision`, a feature of that name where a
view has it, read_versions rows of one event time; the digest makes the outcome the same on every replica when both are equal.
The integers stay below 2^53, so Lua's doubles compare them exactly.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple

from feast.protos.feast.types.Value_pb2 import Value

from reaseq.records import Version

REVISION = "revision"
_VERSION = struct.Struct(">QQQ")
VERSION_BYTES = _VERSION.size
_ENTRY = struct.Struct(">II")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class RowVersion(NamedTuple):
    """Which row is newer: compare as a tuple."""

    event_us: int
    revision: int
    digest: int

    @property
    def of_record(self) -> Version:
        """The version of the record that the row was written for."""
        return self.event_us // 1000, self.revision

    @property
    def event_time(self) -> datetime:
        """The event time, with its time zone (UTC)."""
        return _EPOCH + self.event_us * _MICROSECOND


def pack(values: Mapping[str, Value], event_time: datetime) -> bytes:
    """The row of `values` as of `event_time` (naive times are UTC). Equal input gives equal bytes."""
    entries = []
    for name in sorted(values):
        value = values[name].SerializeToString(deterministic=True)
        entries.append(_ENTRY.pack(zlib.crc32(name.encode()), len(value)) + value)
    payload = b"".join(entries)
    aware = event_time if event_time.tzinfo else event_time.replace(tzinfo=UTC)
    event_us = (aware - _EPOCH) // _MICROSECOND
    revision = values[REVISION].int64_val if REVISION in values else 0
    digest = int.from_bytes(blake2b(payload, digest_size=6).digest(), "big")
    return _VERSION.pack(event_us, revision, digest) + payload


def read_version(row: bytes) -> RowVersion:
    """The order that `row` was packed with."""
    return RowVersion(*_VERSION.unpack_from(row))


def unpack(row: bytes, names: Iterable[str]) -> dict[str, Value]:
    """The features called `names` that the row holds; one that it does not hold is absent."""
    entries = _entries(row)
    values = {}
    for name in names:
        span = entries.get(zlib.crc32(name.encode()))
        if span:
            values[name] = Value.FromString(row[span[0] : span[1]])
    return values


def content(row: bytes, name: str) -> bytes:
    """The raw content of a bytes or string feature, without building a message; empty where the row lacks it."""
    span = _entries(row).get(zlib.crc32(name.encode()))
    if not span:
        return b""
    at = span[0] + 1  # behind the field's tag stands the length, seven bits a byte, the last one below 128
    while row[at] & 0x80:
        at += 1
    return row[at + 1 : span[1]]


def _entries(row: bytes) -> dict[int, tuple[int, int]]:
    spans = {}
    at = _VERSION.size
    while at < len(row):
        name, size = _ENTRY.unpack_from(row, at)
        at += _ENTRY.size
        spans[name] = (at, at + size)
        at += size
    return spans
