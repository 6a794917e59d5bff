"""Commits: never behind a record that one of the partition's readers has not finished."""

from hypothesis import given
from hypothesis import strategies as st

from streams.contract.messages import RawRecord
from streams.runtime.offset_tracker import OffsetTracker

ONE, OTHER = ("events", 0), ("events", 1)


def account(*stages: str) -> OffsetTracker:
    return OffsetTracker({"events": stages})


def batch(*offsets: int, partition: tuple[str, int] = ONE) -> list[RawRecord]:
    return [RawRecord(partition[0], b"k", b"", 0, (), partition[1], offset) for offset in offsets]


def test_batches_may_end_in_any_order() -> None:
    offsets = account("a")
    first = offsets.taken("a", batch(10, 11))
    second = offsets.taken("a", batch(12, 15))  # what lay between has been compacted away
    offsets.finished("a", second)
    assert offsets.to_commit() == {ONE: 10}

    offsets.finished("a", first)

    assert offsets.to_commit() == {ONE: 16}
    offsets.committed({ONE: 16})
    assert offsets.to_commit() == {}


def test_the_slowest_reader_counts_also_one_that_has_not_begun() -> None:
    offsets = account("a", "b")
    offsets.finished("a", offsets.taken("a", batch(10, 11)))
    assert offsets.to_commit() == {}

    taken = offsets.taken("b", batch(10))
    assert offsets.to_commit() == {ONE: 10}
    offsets.finished("b", taken)
    assert offsets.to_commit() == {ONE: 11}


def test_partitions_go_their_own_ways() -> None:
    offsets = account("a")
    offsets.taken("a", [*batch(3), *batch(7, partition=OTHER)])
    offsets.finished("a", offsets.taken("a", batch(8, partition=OTHER)))
    assert offsets.to_commit() == {ONE: 3, OTHER: 7}


def test_what_is_taken_twice_must_be_finished_twice() -> None:
    offsets = account("a")
    first = offsets.taken("a", batch(0, 1, 2))
    second = offsets.taken("a", batch(0, 1, 2, 3, 4))
    offsets.finished("a", first)
    assert offsets.to_commit() == {}

    offsets.finished("a", second)
    offsets.taken("a", batch(3))
    assert offsets.to_commit() == {ONE: 3}


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8), data=st.data())
def test_nothing_unfinished_is_ever_behind_a_commit(sizes: list[int], data: st.DataObject) -> None:
    offsets, start = account("a", "b"), 0
    open_batches, unfinished = [], set[tuple[str, int]]()
    for size in sizes:
        numbers = list(range(start, start + size))
        start += size
        for stage in "ab":
            open_batches.append((stage, numbers, offsets.taken(stage, batch(*numbers))))
            unfinished |= {(stage, offset) for offset in numbers}
    for stage, numbers, taken in data.draw(st.permutations(open_batches)):
        offsets.finished(stage, taken)
        unfinished -= {(stage, offset) for offset in numbers}
        least = min((offset for _, offset in unfinished), default=start)
        assert offsets.to_commit().get(ONE, 0) == least
