"""Plain values have the bytes of Feast's messages."""

import pytest
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from features.plain_values import Plain, decode, encode

INT64 = st.integers(-(2**63), 2**63 - 1)
FIELDS = {str: "string_val", bytes: "bytes_val", int: "int64_val", float: "double_val"}


@given(INT64 | st.text() | st.binary(max_size=300) | st.floats(allow_nan=False))
def test_a_value_has_the_bytes_of_feasts_message_and_is_read_back(value: Plain) -> None:
    message = Value()
    setattr(message, FIELDS[type(value)], value)

    assert encode(value) == message.SerializeToString(deterministic=True)
    assert decode(encode(value)) == value


@pytest.mark.parametrize("size", [0, 127, 128, 16_383, 16_384, 3_000_000])
def test_the_length_may_have_any_number_of_bytes(size: int) -> None:
    content = b"x" * size

    assert encode(content) == Value(bytes_val=content).SerializeToString()
    assert decode(encode(content)) == content
