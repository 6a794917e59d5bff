"""Ranking within a latency budget: the fallback levels, and what moves a request from one to the next.

    fresh → last_known → semantic → popularity

`fresh`: the model, on features read just now. `last_known`: the model, on the features last read of the user, because the
store does not answer. `semantic`: no time is left for the model; candidates are ranked by similarity to the user's history.
`popularity`: nothing is known of the user. No level fails because a feature is missing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from reaseq.ranker.engine import Engine, ScoringQuery, ScoringResult
from reaseq.ranker.numbers import POPULARITY
from reaseq.records import UserFeatures
from reaseq.representation.item_table import Snapshot
from serving.api import FallbackLevel
from serving.user_cache import CachedUser, UserCache

NO_STORE = "store_unavailable"
NO_TIME = "budget_spent"
UNKNOWN_USER = "unknown_user"
UNKNOWN_CANDIDATES = "unknown_candidates"
NO_LATENT = "latent_state_of_another_model"

MEASURED_CANDIDATES = 200  # with fewer, most of the time is the fixed cost of a forward pass
SMOOTHING = 0.1  # of the estimated scoring time per candidate
RETRY_EVERY = 20  # one in so many batches that seem too slow for the model tries it anyway
MARGIN = 1.5  # factor by which scoring may take longer than estimated


@dataclass(frozen=True)
class RankingTask:
    """A request with its time filled in; `deadline_s` is on the monotonic clock."""

    user_id: str
    candidate_ids: Sequence[str]
    now_ms: int
    deadline_s: float


@dataclass(frozen=True)
class RankingResult:
    """Scores (C,) of the candidates, the fallback level, and the user's features that were read."""

    scores: NDArray[np.float32]
    fallback_level: FallbackLevel
    reasons: tuple[str, ...]  # why this level, and what the model had to do without
    model: str  # empty if no model was used
    user: UserFeatures | None


@dataclass
class _Attempt:
    """One task on its way through a batch."""

    task: RankingTask
    user: CachedUser
    query: ScoringQuery
    reasons: list[str] = field(default_factory=list)

    @property
    def nothing_known(self) -> bool:
        """Whether the store failed and no earlier read is cached. A new user differs: the model has seen such users."""
        return not self.user.fresh and self.user.features is None


class DegradingRanker:
    """Ranks batches of tasks with one engine at a time, which may be replaced between batches."""

    def __init__(self, engine: Engine, users: UserCache, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._users = users
        self._clock = clock
        self._candidate_s = 0.0  # estimated time to score one candidate
        self._skipped_batches = 0  # batches that were too slow for the model

    def warm_up(self, candidates: int) -> None:
        """Score twice without a user, so that the first request finds the table embedded and the time estimated."""
        table = self.engine.table.snapshot
        rows = torch.randint(len(table), (candidates,))
        for _ in range(2):
            self._candidate_s = 0.0
            self._score(self.engine, [ScoringQuery(None, rows, 0)], table)

    def rank(self, tasks: Sequence[RankingTask]) -> list[RankingResult]:
        """Results in order, from one state of the item table, one read of the store and one forward pass."""
        engine = self.engine  # may be replaced at any moment
        table = engine.table.snapshot
        users = self._users.read([task.user_id for task in tasks])
        attempts = [_start(task, user, table) for task, user in zip(tasks, users, strict=True)]
        in_time = self._in_time(attempts)
        results = {
            index: self._without_model(attempts[index], engine, table) for index in set(range(len(attempts))) - set(in_time)
        }
        if in_time:
            scored = self._score(engine, [attempts[index].query for index in in_time], table)
            results |= {
                index: _with_model(attempts[index], result, engine.version)
                for index, result in zip(in_time, scored, strict=True)
            }
        return [results[index] for index in range(len(attempts))]

    def popular(self, count: int) -> list[str]:
        """The best-selling items on sale, by the counts with the shortest half-life."""
        engine = self.engine
        table = engine.table.snapshot
        rows = table.live.nonzero().flatten().cpu().numpy()
        counts = engine.aggregates.evaluate(rows, engine.aggregates.newest_ms)[:, POPULARITY][:, 0]
        return [table.ids[row] for row in rows[np.argsort(-counts, kind="stable")[:count]].tolist()]

    def _in_time(self, attempts: list[_Attempt]) -> list[int]:
        """Indices of the attempts that the model is expected to score before their deadlines."""
        scorable = [index for index, attempt in enumerate(attempts) if not attempt.nothing_known]
        width = max((len(attempts[index].query.rows) for index in scorable), default=0)
        expected_s = MARGIN * self._candidate_s * width * len(scorable)
        in_time = [index for index in scorable if self._clock() + expected_s <= attempts[index].task.deadline_s]
        if scorable and not in_time:
            return self._retry([index for index in scorable if self._clock() < attempts[index].task.deadline_s])
        return in_time

    def _retry(self, indices: list[int]) -> list[int]:
        """Every RETRY_EVERY batches, one attempt for which the model seems too slow, because it may have become faster."""
        self._skipped_batches += 1
        if not indices or self._skipped_batches % RETRY_EVERY:
            return []
        self._candidate_s = 0.0  # only the next measurement counts
        return indices[:1]

    def _score(self, engine: Engine, queries: list[ScoringQuery], table: Snapshot) -> list[ScoringResult]:
        started = self._clock()
        results = engine.score_all(queries, table)
        candidates = len(queries) * max(len(query.rows) for query in queries)
        measured_s = (self._clock() - started) / candidates
        if not self._candidate_s:
            self._candidate_s = measured_s
        elif candidates >= MEASURED_CANDIDATES:
            self._candidate_s += (measured_s - self._candidate_s) * SMOOTHING
        return results

    def _without_model(self, attempt: _Attempt, engine: Engine, table: Snapshot) -> RankingResult:
        """Rank by similarity to the history if there is one, else by popularity."""
        if not attempt.nothing_known:
            attempt.reasons.append(NO_TIME)
        user = attempt.user.features
        if user and user.history.item_ids:
            history = table.contents.vectors[table.slots[table.rows(user.history.item_ids)]].sum(0)  # (D,)
            candidates = table.contents.vectors[table.slots[attempt.query.rows]]  # (C, D)
            cosine = torch.nn.functional.cosine_similarity(candidates, history, dim=-1)
            return RankingResult(cosine.cpu().numpy(), "semantic", tuple(attempt.reasons), "", user)
        counts = engine.aggregates.evaluate(attempt.query.rows.cpu().numpy(), attempt.task.now_ms)
        return RankingResult(counts[:, POPULARITY][:, -1], "popularity", tuple(attempt.reasons), "", user)


def _start(task: RankingTask, user: CachedUser, table: Snapshot) -> _Attempt:
    attempt = _Attempt(task, user, ScoringQuery(user.features, table.rows(task.candidate_ids), task.now_ms))
    if not user.fresh:
        attempt.reasons.append(NO_STORE)
    elif user.features is None:
        attempt.reasons.append(UNKNOWN_USER)
    if bool((attempt.query.rows == 0).any()):
        attempt.reasons.append(UNKNOWN_CANDIDATES)
    return attempt


def _with_model(attempt: _Attempt, result: ScoringResult, model: str) -> RankingResult:
    user = attempt.user.features
    if not result.latent_read and user and user.inferred.latent:
        attempt.reasons.append(NO_LATENT)
    level: FallbackLevel = "fresh" if attempt.user.fresh else "last_known"
    return RankingResult(result.probabilities, level, tuple(attempt.reasons), model, user)
