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


def test_commit_passes_offsets_without_a_record_once_all_records_before_are_finished() -> None:
    tracker = new_tracker("a", "b")
    tracker.fetch({}, {ONE: 4})  # only transaction markers so far
    assert tracker.to_commit() == {ONE: 4}

    for stage in "ab":
        tracker.put(stage, batch(4, 5))
    tracker.fetch({ONE: 6}, {ONE: 7})
    assert tracker.to_commit() == {}  # neither reader has started the records
    for stage in "ab":
        tracker.finish(stage, tracker.start(stage, batch(4, 5)))
    assert tracker.to_commit() == {ONE: 7}

    tracker.mark_committed({ONE: 7})
    for stage in "ab":
        tracker.put(stage, batch(7))
    tracker.fetch({ONE: 8}, {ONE: 9})
    tracker.finish("a", tracker.start("a", batch(7)))
    assert tracker.to_commit() == {}


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8), data=st.data())
def test_commit_never_passes_an_unfinished_record(sizes: list[int], data: st.DataObject) -> None:
    tracker, start = new_tracker("a", "b"), 0
    open_batches, unfinished = [], set[tuple[str, int]]()
    for size in sizes:
        numbers = list(range(start, start + size))
        start += size + 1  # each batch is followed by a transaction marker
        tracker.fetch({ONE: start - 1}, {ONE: start})
        for stage in "ab":
            open_batches.append((stage, numbers, tracker.start(stage, batch(*numbers))))
            unfinished |= {(stage, offset) for offset in numbers}
    for stage, numbers, starts in data.draw(st.permutations(open_batches)):
        tracker.finish(stage, starts)
        unfinished -= {(stage, offset) for offset in numbers}
        least = min((offset for _, offset in unfinished), default=start)
        assert tracker.to_commit().get(ONE, 0) == least


@given(lanes=st.lists(st.integers(0, 2), min_size=1, max_size=20), data=st.data())
def test_commit_never_passes_a_record_that_waits_for_its_reader(lanes: list[int], data: st.DataObject) -> None:
    """Three readers share the records; each starts its own in order, at any time, and finishes them in any order."""
    tracker, end = new_tracker("0", "1", "2"), len(lanes)
    waiting = {str(lane): [offset for offset, of in enumerate(lanes) if of == lane] for lane in range(3)}
    for lane, offsets in waiting.items():
        if offsets:
            tracker.put(lane, batch(*offsets))
    tracker.fetch({ONE: end}, {ONE: end})
    running: list[tuple[str, int, dict[tuple[str, int], int]]] = []
    while any(waiting.values()) or running:
        startable = [lane for lane, offsets in waiting.items() if offsets]
        if running and (not startable or data.draw(st.booleans())):
            lane, _, starts = running.pop(data.draw(st.integers(0, len(running) - 1)))
            tracker.finish(lane, starts)
        else:
            lane = data.draw(st.sampled_from(startable))
            offset = waiting[lane].pop(0)
            running.append((lane, offset, tracker.start(lane, batch(offset))))
        unfinished = [offset for offsets in waiting.values() for offset in offsets] + [offset for _, offset, _ in running]
        assert tracker.to_commit().get(ONE, 0) <= min(unfinished, default=end)
    assert tracker.to_commit() == {ONE: end}
