"""A second model beside the one that serves: it scores a share of the same questions, and the two are compared."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reaseq.ranker.engine import Engine, ScoringQuery
from serving.degradation import Answer, Ask

TOP = 10
WAITING_LIMIT = 16
KEPT_TIMES = 1000


@dataclass(frozen=True)
class Comparison:
    """Of the questions that both models scored: how alike the answers are, and what the second one took."""

    model: str
    shadow: str
    questions: int
    dropped: int  # came while the shadow was busy
    top_10_overlap_mean: float  # share of the best ten that both name
    rank_correlation_mean: float  # Spearman's, over the candidates of a question
    score_difference_mean: float  # of the probabilities, shadow less model
    shadow_p50_ms: float
    shadow_p99_ms: float


class Shadow:
    """Scores what the serving model has answered, on a thread of its own; a question that finds it busy is dropped."""

    def __init__(self, engine: Engine, share: float, draw: Callable[[], float]) -> None:
        self.engine = engine
        self._share = share
        self._draw = draw
        self._waiting: queue.Queue[tuple[Ask, Answer]] = queue.Queue(WAITING_LIMIT)
        self._lock = threading.Lock()
        self._model = ""
        self._questions = self._dropped = 0
        self._sums = np.zeros(3)
        self._times_s: list[float] = []
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def offer(self, ask: Ask, answer: Answer) -> None:
        """Take a question for comparison if it is drawn, was answered by the model, and there is time."""
        if answer.step in ("fresh", "last_known") and self._draw() < self._share:
            try:
                self._waiting.put_nowait((ask, answer))
            except queue.Full:
                self._dropped += 1

    def report(self) -> Comparison:
        """The comparison so far."""
        with self._lock:
            counted = max(1, self._questions)
            p50, p99 = np.percentile(self._times_s or [0.0], [50, 99]) * 1000
            overlap, correlation, difference = (self._sums / counted).round(4).tolist()
            return Comparison(
                self._model,
                self.engine.version,
                self._questions,
                self._dropped,
                overlap,
                correlation,
                difference,
                round(float(p50), 3),
                round(float(p99), 3),
            )

    def _run(self) -> None:
        while True:
            self._compare(*self._waiting.get())

    def _compare(self, ask: Ask, answer: Answer) -> None:
        table = self.engine.table.snapshot
        started = time.perf_counter()
        scored = self.engine.score_all([ScoringQuery(answer.user, table.rows(ask.candidate_ids), ask.now_ms)], table)
        took_s = time.perf_counter() - started
        ours, theirs = answer.scores, scored[0].probabilities
        with self._lock:
            if answer.model != self._model:  # the serving model was exchanged: what was compared is of another pair
                self._model, self._questions, self._sums[:] = answer.model, 0, 0.0
            self._questions += 1
            self._sums += (overlap(ours, theirs), correlation(ours, theirs), float((theirs - ours).mean()))
            self._times_s = [*self._times_s[-KEPT_TIMES + 1 :], took_s]


def overlap(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Share of the best TOP that both name."""
    count = min(TOP, len(ours))
    best = [set(np.argsort(-of, kind="stable")[:count].tolist()) for of in (ours, theirs)]
    return len(best[0] & best[1]) / count


def correlation(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Spearman's rank correlation; 1 of a single candidate."""
    if len(ours) < 2:
        return 1.0
    first, second = (np.argsort(np.argsort(of, kind="stable")).astype(np.float64) for of in (ours, theirs))
    return float(np.corrcoef(first, second)[0, 1])
