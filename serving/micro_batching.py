"""Micro-batching: questions that come while a batch is being answered make up the next one. Nobody waits for company."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from serving.degradation import Answer, Ask


class Overloaded(Exception):
    """More questions wait than the limit allows."""


@dataclass(frozen=True)
class _Waiting:
    ask: Ask
    answer: Future[Answer]


class MicroBatcher:
    """Answers questions on a thread of its own, as many at once as wait, up to so many candidates."""

    def __init__(
        self, answer: Callable[[Sequence[Ask]], Sequence[Answer]], batch_limit_candidates: int, queue_limit: int
    ) -> None:
        self._answer = answer
        self._batch_limit_candidates = batch_limit_candidates
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(queue_limit)
        self._thread = threading.Thread(target=self._run, name="ranking", daemon=True)
        self._thread.start()

    def submit(self, ask: Ask) -> Future[Answer]:
        """The answer to come. Raises Overloaded at once where the queue is full."""
        waiting = _Waiting(ask, Future())
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            raise Overloaded from None
        return waiting.answer

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        held: _Waiting | None = None
        while (first := held or self._queue.get()) is not None:
            batch, held, ends = self._gather(first)
            try:
                answers = self._answer([waiting.ask for waiting in batch])
            except Exception as error:  # a fault of ours: whoever asked hears of it, and the thread lives on
                for waiting in batch:
                    waiting.answer.set_exception(error)
            else:
                for waiting, answer in zip(batch, answers, strict=True):
                    waiting.answer.set_result(answer)
            if ends:
                return

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], _Waiting | None, bool]:
        """What waits, padded to the longest list within the limit; the first that no longer fits in; whether to end."""
        batch, width = [first], len(first.ask.candidate_ids)
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return batch, None, False
            if waiting is None:
                return batch, None, True
            width = max(width, len(waiting.ask.candidate_ids))
            if width * (len(batch) + 1) > self._batch_limit_candidates:
                return batch, waiting, False
            batch.append(waiting)
