"""The completeness marker of the Redis store: when it is valid."""

import pytest

from features.packed_store import NO_EVICTION, Eviction
from features.redis_shard import _Server

THIS_RUN, EARLIER_RUN = "a" * 40, "b" * 40


def server(run_id: str, evicted_keys: int) -> _Server:
    return _Server(run_id, Eviction(NO_EVICTION, evicted_keys))


def test_marker_is_valid_until_the_server_has_evicted_more_than_when_it_was_set() -> None:
    marker = server(THIS_RUN, 5).to_marker()

    assert server(THIS_RUN, 5).holds_since(marker)
    assert not server(THIS_RUN, 6).holds_since(marker)


def test_server_that_has_restarted_since_counts_from_zero() -> None:
    marker = server(EARLIER_RUN, 5).to_marker()

    assert server(THIS_RUN, 0).holds_since(marker)
    assert not server(THIS_RUN, 5).holds_since(marker)


@pytest.mark.parametrize("marker", [b"", b"garbage", b"\xff \xfe", b"a" * 40, b"a" * 40 + b" x", b"a" * 40 + b" 0 0"])
def test_anything_else_is_no_marker(marker: bytes) -> None:
    assert not server(THIS_RUN, 0).holds_since(marker)
