"""Commits: never behind a record that one of the partition's readers has not finished."""

from hypothesis import given
from hypothesis import strategies as st

from streams.offsets import Offsets, Place

ONE, OTHER = ("events", 0), ("events", 1)


def account(*stages: str) -> Offsets:
    return Offsets({"events": stages})


def places(*offsets: int) -> list[Place]:
    return [(ONE, offset) for offset in offsets]


def test_batches_may_end_in_any_order() -> None:
    offsets = account("a")
    offsets.taken("a", places(10, 11))
    offsets.taken("a", places(12, 15))  # what lay between has been compacted away
    offsets.finished("a", places(12, 15))
    assert offsets.to_commit() == {ONE: 10}

    offsets.finished("a", places(10, 11))

    assert offsets.to_commit() == {ONE: 16}
    offsets.committed({ONE: 16})
    assert offsets.to_commit() == {}


def test_the_slowest_reader_counts_also_one_that_has_not_begun() -> None:
    offsets = account("a", "b")
    offsets.taken("a", places(10, 11))
    offsets.finished("a", places(10, 11))
    assert offsets.to_commit() == {}

    offsets.taken("b", places(10))
    assert offsets.to_commit() == {ONE: 10}
    offsets.finished("b", places(10))
    assert offsets.to_commit() == {ONE: 11}


def test_partitions_go_their_own_ways() -> None:
    offsets = account("a")
    offsets.taken("a", [(ONE, 3), (OTHER, 7)])
    offsets.finished("a", [(OTHER, 7)])

    assert offsets.to_commit() == {ONE: 3, OTHER: 8}


@given(batches=st.lists(st.integers(1, 5), min_size=1, max_size=8), data=st.data())
def test_nothing_unfinished_is_ever_behind_a_commit(batches: list[int], data: st.DataObject) -> None:
    offsets, start = account("a", "b"), 0
    open_batches, unfinished = [], set[tuple[str, int]]()
    for size in batches:
        batch = list(range(start, start + size))
        start += size
        for stage in "ab":
            offsets.taken(stage, places(*batch))
            open_batches.append((stage, batch))
            unfinished |= {(stage, offset) for offset in batch}
    for stage, batch in data.draw(st.permutations(open_batches)):
        offsets.finished(stage, places(*batch))
        unfinished -= {(stage, offset) for offset in batch}
        least = min((offset for _, offset in unfinished), default=start)
        assert offsets.to_commit().get(ONE, 0) == least
