"""Micro-batching: tasks that arrive while a batch is being ranked form the next batch. No task waits for a batch to fill."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from serving.degradation import RankingResult, RankingTask


class Overloaded(Exception):
    """More tasks wait than the limit allows."""


@dataclass(frozen=True)
class _Pending:
    task: RankingTask
    result: Future[RankingResult]


class MicroBatcher:
    """Ranks tasks on its own thread: all that wait, up to a limit of candidates."""

    def __init__(
        self,
        rank: Callable[[Sequence[RankingTask]], Sequence[RankingResult]],
        batch_limit_candidates: int,
        queue_limit: int,
    ) -> None:
        self._rank = rank
        self._batch_limit_candidates = batch_limit_candidates
        self._queue: queue.Queue[_Pending | None] = queue.Queue(queue_limit)
        self._thread = threading.Thread(target=self._run, name="ranking", daemon=True)
        self._thread.start()

    def submit(self, task: RankingTask) -> Future[RankingResult]:
        """The result to come. Raises Overloaded at once if the queue is full."""
        pending = _Pending(task, Future())
        try:
            self._queue.put_nowait(pending)
        except queue.Full:
            raise Overloaded from None
        return pending.result

    def close(self) -> None:
        """Rank the waiting tasks, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        left_over: _Pending | None = None
        while (first := left_over or self._queue.get()) is not None:
            batch, left_over, closing = self._gather(first)
            self._answer(batch)
            if closing:
                return

    def _answer(self, batch: Sequence[_Pending]) -> None:
        """Rank a batch. If that fails, rank each task on its own, so that only the caller of the faulty one sees the error."""
        try:
            results = self._rank([pending.task for pending in batch])
        except Exception as error:  # the thread must go on
            if len(batch) == 1:
                batch[0].result.set_exception(error)
            else:
                for pending in batch:
                    self._answer([pending])
        else:
            for pending, result in zip(batch, results, strict=True):
                pending.result.set_result(result)

    def _gather(self, first: _Pending) -> tuple[list[_Pending], _Pending | None, bool]:
        """The waiting tasks that fit when padded to the longest; the first that does not fit; whether to stop."""
        batch, width = [first], len(first.task.candidate_ids)
        while True:
            try:
                pending = self._queue.get_nowait()
            except queue.Empty:
                return batch, None, False
            if pending is None:
                return batch, None, True
            width = max(width, len(pending.task.candidate_ids))
            if width * (len(batch) + 1) > self._batch_limit_candidates:
                return batch, pending, False
            batch.append(pending)
