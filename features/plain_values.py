"""Plain values as Feast serializes them, without building its messages, which takes most of the time of packing a row.

A `Value` message holds one field. Its tag is the field's number and wire type: https://protobuf.dev/programming-guides/encoding
"""

import struct
from collections.abc import Callable

Plain = str | int | float | bytes

_BYTES, _STRING, _INT64, _DOUBLE = b"\x0a", b"\x12", b"\x20", b"\x29"
_SIXTY_FOUR_BITS = (1 << 64) - 1
_ONE_BYTE = [bytes([number]) for number in range(0x80)]
_DOUBLE_BYTES = struct.Struct("<d")


def encode(value: Plain) -> bytes:
    """The bytes that `Value.SerializeToString` gives for the value."""
    match value:
        case bytes():
            return _BYTES + _to_varint(len(value)) + value
        case str():
            content = value.encode()
            return _STRING + _to_varint(len(content)) + content
        case int():
            return _INT64 + _to_varint(value & _SIXTY_FOUR_BITS)
        case float():
            return _DOUBLE + _DOUBLE_BYTES.pack(value)


def decode(serialized: bytes) -> Plain:
    """The inverse of `encode`. Raises KeyError for another type of value, which no row has."""
    return _DECODERS[serialized[:1]](serialized)


def content_start(serialized: bytes, position: int) -> int:
    """Where the content of a bytes or string value starts that is at `position`: after the tag and the length."""
    position += 1
    while serialized[position] & 0x80:  # the length is a varint, whose last byte is below 128
        position += 1
    return position + 1


def _to_varint(number: int) -> bytes:
    if number <= 0x7F:
        return _ONE_BYTE[number]
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _decode_int(serialized: bytes) -> int:
    number = 0
    for group in reversed(serialized[1:]):
        number = number << 7 | group & 0x7F
    return number if number < 1 << 63 else number - (1 << 64)


_DECODERS: dict[bytes, Callable[[bytes], Plain]] = {
    _BYTES: lambda serialized: serialized[content_start(serialized, 0) :],
    _STRING: lambda serialized: serialized[content_start(serialized, 0) :].decode(),
    _INT64: _decode_int,
    _DOUBLE: lambda serialized: _DOUBLE_BYTES.unpack_from(serialized, 1)[0],
}
