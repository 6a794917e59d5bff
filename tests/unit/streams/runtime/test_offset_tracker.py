"""Commits never pass a record that one of the partition's readers has not finished."""

from hypothesis import given
from hypothesis import strategies as st

from streams.delivery.messages import RawRecord
from streams.runtime.offset_tracker import OffsetTracker

ONE, OTHER = ("events", 0), ("events", 1)


def new_tracker(*stages: str) -> OffsetTracker:
    return OffsetTracker({"events": stages})


def batch(*offsets: int, partition: tuple[str, int] = ONE) -> list[RawRecord]:
    return [RawRecord(partition[0], b"k", b"", 0, (), partition[1], offset) for offset in offsets]


def test_batches_may_finish_in_any_order() -> None:
    tracker = new_tracker("a")
    first = tracker.start("a", batch(10, 11))
    second = tracker.start("a", batch(12, 15))  # compaction has removed the offsets between
    tracker.finish("a", second)
    assert tracker.to_commit() == {ONE: 10}

    tracker.finish("a", first)

    assert tracker.to_commit() == {ONE: 16}
    tracker.mark_committed({ONE: 16})
    assert tracker.to_commit() == {}


def test_slowest_reader_limits_the_commit_even_before_its_first_batch() -> None:
    tracker = new_tracker("a", "b")
    tracker.finish("a", tracker.start("a", batch(10, 11)))
    assert tracker.to_commit() == {}

    starts = tracker.start("b", batch(10))
    assert tracker.to_commit() == {ONE: 10}
    tracker.finish("b", starts)
    assert tracker.to_commit() == {ONE: 11}


def test_partitions_are_independent() -> None:
    tracker = new_tracker("a")
    tracker.start("a", [*batch(3), *batch(7, partition=OTHER)])
    tracker.finish("a", tracker.start("a", batch(8, partition=OTHER)))
    assert tracker.to_commit() == {ONE: 3, OTHER: 7}


def test_redelivered_batch_must_finish_as_well() -> None:
    tracker = new_tracker("a")
    first = tracker.start("a", batch(0, 1, 2))
    second = tracker.start("a", batch(0, 1, 2, 3, 4))
    tracker.finish("a", first)
    assert tracker.to_commit() == {}

    tracker.finish("a", second)
    tracker.finish("a", tracker.start("a", batch(0, 1)))
    assert tracker.to_commit() == {ONE: 5}
    tracker.start("a", batch(3))
    assert tracker.to_commit() == {ONE: 3}


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8), data=st.data())
def test_commit_never_passes_an_unfinished_record(sizes: list[int], data: st.DataObject) -> None:
    tracker, start = new_tracker("a", "b"), 0
    open_batches, unfinished = [], set[tuple[str, int]]()
    for size in sizes:
        numbers = list(range(start, start + size))
        start += size
        for stage in "ab":
            open_batches.append((stage, numbers, tracker.start(stage, batch(*numbers))))
            unfinished |= {(stage, offset) for offset in numbers}
    for stage, numbers, starts in data.draw(st.permutations(open_batches)):
        tracker.finish(stage, starts)
        unfinished -= {(stage, offset) for offset in numbers}
        least = min((offset for _, offset in unfinished), default=start)
        assert tracker.to_commit().get(ONE, 0) == least
