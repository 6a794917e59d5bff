"""The packed row: all features of one entity in one view as a single value, prefixed with its version.

    row     = version (24 bytes) + entries
    version = event time in µs, revision, content: three unsigned 64-bit integers, big endian
    content = format − 1 (5 bits), digest (48 bits) of the owner, the event time, the revision and the entries
    entry   = crc32 of the feature's name, length, and Feast's own serialized value

The row with the greater version wins. The event time is compared first; then `revision`, the feature of that name if the view
has one; then the content, which gives every replica the same result when the first two are equal. The integers stay below
2^53, so Lua's doubles compare them exactly. The owner is the view and entity that the row belongs to, so a row that was moved
to another one is no more intact than one that was changed. Rows of format 1 have a digest of the entries alone.

The format is the least that a writer must know to write the row back. A writer that knows less would drop what it does not
know, so it may read the row but must not replace it.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

from feast.protos.feast.types.Value_pb2 import Value

from features.plain_values import content_start
from reaseq.records import Version

REVISION = "revision"
FORMAT = 3  # of the rows that this code writes; raise it when rows gain a feature, or a feature gains a field (at most 32)
DIGEST_BITS = 48
_VERSION = struct.Struct(">QQQ")
VERSION_BYTES = _VERSION.size
_TIME_AND_REVISION = struct.Struct(">QQ")
_ENTRY = struct.Struct(">II")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class RowVersion(NamedTuple):
    """The version of a row. Compared as a tuple: the greater one is newer."""

    event_us: int
    revision: int
    content: int

    @property
    def format(self) -> int:
        """The least format that a writer must know to write the row back. Rows from before there were formats have format 1."""
        return 1 + (self.content >> DIGEST_BITS)

    @property
    def record_version(self) -> Version:
        """The version of the record that the row was written from."""
        return self.event_us // 1000, self.revision

    @property
    def event_time(self) -> datetime:
        """The event time in UTC (timezone-aware)."""
        return _EPOCH + self.event_us * _MICROSECOND


def pack(values: Mapping[str, Value], event_time: datetime, owner: bytes) -> bytes:
    """Pack `values` as of `event_time` into a row. Naive times are taken as UTC. Equal input gives equal bytes."""
    serialized = {name: value.SerializeToString(deterministic=True) for name, value in values.items()}
    aware = event_time if event_time.tzinfo else event_time.replace(tzinfo=UTC)
    revision = values[REVISION].int64_val if REVISION in values else 0
    return pack_serialized(serialized, (aware - _EPOCH) // _MICROSECOND, revision, owner)


def pack_serialized(values: Mapping[str, bytes], event_us: int, revision: int, owner: bytes) -> bytes:
    """Pack serialized values into a row. Equal input gives equal bytes."""
    entries: list[bytes] = []
    for name in sorted(values):
        entries += (_ENTRY.pack(_name_crc(name), len(values[name])), values[name])
    payload = b"".join(entries)
    digest = _digest(_TIME_AND_REVISION.pack(event_us, revision), owner, payload)
    return _VERSION.pack(event_us, revision, (FORMAT - 1 << DIGEST_BITS) + digest) + payload


def read_version(row: bytes) -> RowVersion:
    """Read the version of a row, or of its first `VERSION_BYTES` bytes. A row that was cut there is older than any other."""
    return RowVersion(*_VERSION.unpack_from(row)) if len(row) >= VERSION_BYTES else RowVersion(0, 0, 0)


def is_intact(row: bytes, owner: bytes) -> bool:
    """Whether the row holds what was packed for this owner: its digest fits."""
    if len(row) < VERSION_BYTES:
        return False
    version, payload = read_version(row), row[VERSION_BYTES:]
    digest = _digest(payload) if version.format == 1 else _digest(row[: _TIME_AND_REVISION.size], owner, payload)
    return version.content % (1 << DIGEST_BITS) == digest


def unpack(row: bytes, names: Iterable[str]) -> dict[str, Value]:
    """Read the features in `names` from a row. Features that the row does not have are left out."""
    return {name: Value.FromString(value) for name, value in unpack_serialized(row, names).items()}


def unpack_serialized(row: bytes, names: Iterable[str]) -> dict[str, bytes]:
    """Read the serialized values of the features in `names` from a row. Features that the row does not have are left out."""
    spans = _entry_spans(row)
    return {name: row[slice(*spans[crc])] for name in names if (crc := _name_crc(name)) in spans}


def unpack_bytes(row: bytes, name: str) -> bytes:
    """Read the raw content of a bytes or string feature without building a protobuf message. Empty if the row lacks it."""
    span = _entry_spans(row).get(_name_crc(name))
    return row[content_start(row, span[0]) : span[1]] if span else b""


@cache
def _name_crc(name: str) -> int:
    return zlib.crc32(name.encode())


def _digest(*parts: bytes) -> int:
    return int.from_bytes(blake2b(b"".join(parts), digest_size=DIGEST_BITS // 8).digest(), "big")


def _entry_spans(row: bytes) -> dict[int, tuple[int, int]]:
    """Start and end of each entry's value, by the crc32 of its name."""
    spans = {}
    position = _VERSION.size
    while position < len(row):
        name_crc, size = _ENTRY.unpack_from(row, position)
        position += _ENTRY.size
        spans[name_crc] = (position, position + size)
        position += size
    return spans
