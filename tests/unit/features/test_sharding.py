"""Where entities are: spread evenly, at the same place in every release, and few of them move when a shard is added."""

from collections import Counter

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key

from features.packed_store import KEY_VERSION, entity_id_bytes, entity_key
from features.sharding import ShardMap, shard_of

IDS = [f"user-{number}".encode() for number in range(20_000)]


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 100])
def test_entities_are_spread_evenly(shards: int) -> None:
    counts = Counter(shard_of(entity_id, shards) for entity_id in IDS)

    mean = len(IDS) / shards
    assert counts.keys() == set(range(shards))
    assert all(abs(count - mean) < 5 * mean**0.5 for count in counts.values())


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_added_shard_takes_its_share_and_no_other_entity_moves(shards: int) -> None:
    moved = [entity_id for entity_id in IDS if shard_of(entity_id, shards) != shard_of(entity_id, shards + 1)]

    assert {shard_of(entity_id, shards + 1) for entity_id in moved} == {shards}
    assert abs(len(moved) - len(IDS) / (shards + 1)) < 5 * len(moved) ** 0.5


def test_place_is_the_same_in_every_release() -> None:
    """A change of these moves entities to where their rows are not: raise `HASH` with it."""
    assert [shard_of(f"u{number}".encode(), 3) for number in range(12)] == [2, 1, 2, 1, 0, 0, 0, 1, 1, 1, 2, 0]
    assert ShardMap(1, 3).entry == b"jump-1 2/3"


def test_entity_is_where_its_records_are_looked_for() -> None:
    for entity_id in ("u", "", "ü" * 100, "0"):
        for join_key in ("user_id", "item_id"):
            key = serialize_entity_key(entity_key(join_key, entity_id), KEY_VERSION)
            assert entity_id_bytes(key) == entity_id.encode()


def test_refusal_says_what_to_change() -> None:
    place = ShardMap(1, 3)

    assert "jump-1 1/1" in place.refusal(ShardMap(0, 1).entry) and "REASEQ_STORE__REDIS_URL" in place.refusal(b"?")
    assert "replaced" in place.refusal(place.closed_entry)
