"""Shadow scoring: a second model scores a share of the same tasks, and the two are compared."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reaseq.ranker.engine import Engine, ScoringQuery
from serving.degradation import RankingResult, RankingTask

TOP = 10
WAITING_LIMIT = 16
KEPT_TIMES = 1000


@dataclass(frozen=True)
class Comparison:
    """How similarly both models rank the tasks that both scored, and how long the shadow took."""

    model: str
    shadow: str
    tasks: int
    dropped: int  # arrived while the shadow was busy
    top_10_overlap_mean: float  # share of the ten best that both models name
    rank_correlation_mean: float  # Spearman's, over the candidates of a task; tasks whose scores are all tied are left out
    score_difference_mean: float  # of the probabilities, shadow minus model
    shadow_p50_ms: float
    shadow_p99_ms: float


class Shadow:
    """Scores tasks that the serving model has answered, on its own thread; a task that finds the queue full is dropped."""

    def __init__(self, engine: Engine, share: float, draw: Callable[[], float]) -> None:
        self.engine = engine
        self._share = share
        self._draw = draw
        self._waiting: queue.Queue[tuple[RankingTask, RankingResult]] = queue.Queue(WAITING_LIMIT)
        self._lock = threading.Lock()
        self._dropped = 0
        self._reset("")
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def offer(self, task: RankingTask, result: RankingResult) -> None:
        """Take a task for comparison if it is drawn, was ranked by the model, and the queue has room."""
        if result.fallback_level in ("fresh", "last_known") and self._draw() < self._share:
            try:
                self._waiting.put_nowait((task, result))
            except queue.Full:
                self._dropped += 1

    def report(self) -> Comparison:
        """The comparison so far."""
        with self._lock:
            p50, p99 = np.percentile(self._times_s or [0.0], [50, 99]) * 1000
            return Comparison(
                model=self._model,
                shadow=self.engine.version,
                tasks=self._tasks,
                dropped=self._dropped,
                top_10_overlap_mean=_mean(self._overlap_sum, self._tasks),
                rank_correlation_mean=_mean(self._correlation_sum, self._correlated),
                score_difference_mean=_mean(self._difference_sum, self._tasks),
                shadow_p50_ms=round(float(p50), 3),
                shadow_p99_ms=round(float(p99), 3),
            )

    def _reset(self, model: str) -> None:
        """Start over: what was compared so far belongs to another serving model."""
        self._model = model
        self._tasks = self._correlated = 0
        self._overlap_sum = self._correlation_sum = self._difference_sum = 0.0
        self._times_s: deque[float] = deque(maxlen=KEPT_TIMES)

    def _run(self) -> None:
        while True:
            self._compare(*self._waiting.get())

    def _compare(self, task: RankingTask, result: RankingResult) -> None:
        table = self.engine.table.snapshot
        started = time.perf_counter()
        scored = self.engine.score_all([ScoringQuery(result.user, table.rows(task.candidate_ids), task.now_ms)], table)
        took_s = time.perf_counter() - started
        ours, theirs = result.scores, scored[0].probabilities
        rank_correlation = correlation(ours, theirs)
        with self._lock:
            if result.model != self._model:
                self._reset(result.model)
            self._tasks += 1
            self._overlap_sum += overlap(ours, theirs)
            self._difference_sum += float((theirs - ours).mean())
            if rank_correlation is not None:
                self._correlated += 1
                self._correlation_sum += rank_correlation
            self._times_s.append(took_s)


def overlap(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Share of the TOP best that both models name."""
    count = min(TOP, len(ours))
    best = [set(np.argsort(-scores, kind="stable")[:count].tolist()) for scores in (ours, theirs)]
    return len(best[0] & best[1]) / count


def correlation(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float | None:
    """Spearman's rank correlation with average ranks for ties; None where it is undefined: constant scores, one candidate."""
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return None
    return float(np.corrcoef(_average_ranks(ours), _average_ranks(theirs))[0, 1])


def _average_ranks(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # rank of the last of equal scores
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return ranks


def _mean(total: float, count: int) -> float:
    return round(total / max(1, count), 4)
