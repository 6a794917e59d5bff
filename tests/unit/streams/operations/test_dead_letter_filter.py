"""Which dead letters a filter selects."""

import pytest

from streams.delivery.dead_letters import DeadLetter, to_dead_letter
from streams.delivery.messages import RawRecord
from streams.operations.dead_letter_queue import Filter


def failed(key: bytes, reason: str = "invalid_record") -> DeadLetter:
    raw = RawRecord("events", key, b"{}", 1, (), 0, 5)
    return DeadLetter.from_record(to_dead_letter(raw, "history", reason, "what went wrong", 1000, limit_bytes=1000))


@pytest.mark.parametrize("key", ["u1", "user[1]", "what?", "a\nb", "ü"])
def test_key_selects_itself(key: str) -> None:
    assert Filter(key=key).matches(failed(key.encode()))


def test_only_the_star_is_a_wildcard() -> None:
    assert Filter(key="u*", reason="invalid_*").matches(failed(b"u1"))
    assert Filter().matches(failed(b""))
    assert not Filter(key="u?").matches(failed(b"u1"))
    assert not Filter(key="u").matches(failed(b"u1"))


def test_failures_before_a_time_are_left_out() -> None:
    assert Filter(since_ms=1000).matches(failed(b"u1"))
    assert not Filter(since_ms=1001).matches(failed(b"u1"))
