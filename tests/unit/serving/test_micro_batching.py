"""Micro-batching: batches form from waiting tasks, up to their limits."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from serving.degradation import RankingResult, RankingTask
from serving.micro_batching import MicroBatcher, Overloaded
from tests.fakes.serving import build_task


class BlockedRanker:
    """Waits in its first batch until released. Scores are the batch size, and the model is the user's id."""

    def __init__(self) -> None:
        self.busy, self.released = threading.Event(), threading.Event()

    def rank(self, tasks: Sequence[RankingTask]) -> list[RankingResult]:
        """Fail for the user `broken`."""
        self.busy.set()
        self.released.wait(5)
        if tasks[0].user_id == "broken":
            raise ValueError("a defect")
        return [RankingResult(np.array([float(len(tasks))]), "fresh", (), task.user_id, None) for task in tasks]


def test_waiting_tasks_form_the_next_batch_within_the_candidate_limit() -> None:
    ranker = BlockedRanker()
    batcher = MicroBatcher(ranker.rank, batch_limit_candidates=100, queue_limit=50)
    first = batcher.submit(build_task("first"))
    ranker.busy.wait(5)
    rest = [batcher.submit(build_task(str(number))) for number in range(4)]  # 29 candidates each: three fit into a batch
    ranker.released.set()

    assert [future.result(5).scores[0] for future in (first, *rest)] == [1, 3, 3, 3, 1]
    assert [future.result(5).model for future in rest] == ["0", "1", "2", "3"]
    batcher.close()


def test_task_that_makes_its_batch_fail_fails_alone() -> None:
    blocked = BlockedRanker()

    def rank(tasks: Sequence[RankingTask]) -> list[RankingResult]:
        if any(task.user_id == "poison" for task in tasks):
            raise ValueError("poisonous")
        return blocked.rank(tasks)

    batcher = MicroBatcher(rank, batch_limit_candidates=1000, queue_limit=50)
    first = batcher.submit(build_task("first"))
    blocked.busy.wait(5)
    before, poison, after = (batcher.submit(build_task(user_id)) for user_id in ("before", "poison", "after"))
    blocked.released.set()

    with pytest.raises(ValueError, match="poisonous"):
        poison.result(5)
    assert [future.result(5).model for future in (first, before, after)] == ["first", "before", "after"]
    batcher.close()


def test_batcher_rejects_when_full_passes_errors_on_and_answers_waiting_tasks_on_close() -> None:
    ranker = BlockedRanker()
    batcher = MicroBatcher(ranker.rank, batch_limit_candidates=1, queue_limit=2)
    broken = batcher.submit(build_task("broken"))
    ranker.busy.wait(5)
    waiting = [batcher.submit(build_task("a")), batcher.submit(build_task("b"))]
    with pytest.raises(Overloaded):
        batcher.submit(build_task("c"))
    ranker.released.set()
    with pytest.raises(ValueError, match="a defect"):
        broken.result(5)
    assert [future.result(5).model for future in waiting] == ["a", "b"]
    last = batcher.submit(build_task("last"))
    batcher.close()

    assert last.done() and not batcher._thread.is_alive()
