"""Ranking within a latency budget: what is asked, what is answered, and in which named step it had to be answered.

    fresh → last_known → semantic → popularity

`fresh`: the model on features read just now. `last_known`: the model on the features that were last read of the user, since
the store does not answer. `semantic`: no time is left for the model; candidates by their likeness to the user's history.
`popularity`: nothing is known of the user. No step fails for want of a feature.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from reaseq.ranker.engine import Engine, ScoringQuery, ScoringResult
from reaseq.records import UserFeatures
from reaseq.representation.item_table import Snapshot
from serving.user_cache import Known, Users

Step = Literal["fresh", "last_known", "semantic", "popularity"]

NO_STORE = "store_unavailable"
NO_TIME = "budget_spent"
UNKNOWN_USER = "unknown_user"
UNKNOWN_CANDIDATES = "unknown_candidates"
NO_LATENT = "latent_state_of_another_model"

TELLING_CANDIDATES = 200  # of fewer, most of the time is what any pass takes
SMOOTHING = 0.1  # of the estimate of what scoring a candidate takes
TRY_EVERY = 20  # batches that the model seems too slow for, one is scored by it all the same
MARGIN = 1.5  # by which scoring may take longer than estimated


@dataclass(frozen=True)
class Ask:
    """Who is to be shown what, when, and by when an answer is needed (on the monotonic clock)."""

    user_id: str
    candidate_ids: Sequence[str]
    now_ms: int
    deadline_s: float


@dataclass(frozen=True)
class Answer:
    """Scores (C,) of the candidates, and what they rest on."""

    scores: NDArray[np.float32]
    step: Step
    reasons: tuple[str, ...]  # why this step, and what the model had to do without
    model: str
    user: UserFeatures | None


@dataclass
class _Todo:
    """One question on its way through a batch."""

    ask: Ask
    known: Known
    query: ScoringQuery
    reasons: list[str] = field(default_factory=list)


class Ranking:
    """Answers batches of questions with one engine at a time, which can be exchanged between batches."""

    def __init__(self, engine: Engine, users: Users, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._users = users
        self._clock = clock
        self._candidate_s = 0.0  # what scoring one candidate takes, as far as is known
        self._given_up = 0  # batches that the model was too slow for

    def warm_up(self, candidates: int) -> None:
        """Score once without a user, so that the first question finds the table embedded and an estimate of the time."""
        table = self.engine.table.snapshot
        rows = torch.randint(len(table), (candidates,))
        for _ in range(2):
            self._candidate_s = 0.0
            self._score(self.engine, [ScoringQuery(None, rows, 0)], table)

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers in order, all from one state of the item table, one read of the store and one forward pass."""
        engine = self.engine  # it may be exchanged at any moment
        table = engine.table.snapshot
        known = self._users.read([ask.user_id for ask in asks])
        todos = [self._todo(ask, of, table) for ask, of in zip(asks, known, strict=True)]
        answers = {}
        scored = [place for place, todo in enumerate(todos) if not self._nothing_known(todo)]
        width = max((len(todos[place].query.rows) for place in scored), default=0)
        takes_s = MARGIN * self._candidate_s * width * len(scored)
        in_time = [place for place in scored if self._clock() + takes_s <= todos[place].ask.deadline_s]
        if scored and not in_time:
            in_time = self._tried([place for place in scored if self._clock() < todos[place].ask.deadline_s])
        for place in set(range(len(todos))) - set(in_time):
            answers[place] = self._without_model(todos[place], engine, table)
        if in_time:
            results = self._score(engine, [todos[place].query for place in in_time], table)
            for place, result in zip(in_time, results, strict=True):
                todo = todos[place]
                if not result.latent_read and todo.known.user and todo.known.user.inferred.latent:
                    todo.reasons.append(NO_LATENT)
                step: Step = "fresh" if todo.known.fresh else "last_known"
                answers[place] = Answer(result.probabilities, step, tuple(todo.reasons), engine.version, todo.known.user)
        return [answers[place] for place in range(len(todos))]

    def _tried(self, places: list[int]) -> list[int]:
        """Now and then one of those for whom the model is too slow as far as is known: it may have become faster."""
        self._given_up += 1
        if not places or self._given_up % TRY_EVERY:
            return []
        self._candidate_s = 0.0  # what it takes now counts alone
        return places[:1]

    def popular(self, count: int) -> list[str]:
        """The items on sale that were taken most lately, by the shortest memory."""
        engine = self.engine
        table = engine.table.snapshot
        rows = table.live.nonzero().flatten().cpu().numpy()
        counts = engine.popularity.counts(rows, now_ms=0)[:, 0]  # at the newest event
        return [table.ids[row] for row in rows[np.argsort(-counts, kind="stable")[:count]].tolist()]

    def _todo(self, ask: Ask, known: Known, table: Snapshot) -> _Todo:
        todo = _Todo(ask, known, ScoringQuery(known.user, table.rows(ask.candidate_ids), ask.now_ms))
        if not known.fresh:
            todo.reasons.append(NO_STORE)
        elif known.user is None:
            todo.reasons.append(UNKNOWN_USER)
        if bool((todo.query.rows == 0).any()):
            todo.reasons.append(UNKNOWN_CANDIDATES)
        return todo

    def _nothing_known(self, todo: _Todo) -> bool:
        """Whether the store failed and nothing is remembered. Of a user who is new, the model may speak: it has seen such."""
        return not todo.known.fresh and todo.known.user is None

    def _score(self, engine: Engine, queries: list[ScoringQuery], table: Snapshot) -> list[ScoringResult]:
        started = self._clock()
        results = engine.score_all(queries, table)
        candidates = len(queries) * max(len(query.rows) for query in queries)
        each = (self._clock() - started) / candidates
        if not self._candidate_s:
            self._candidate_s = each
        elif candidates >= TELLING_CANDIDATES:
            self._candidate_s += (each - self._candidate_s) * SMOOTHING
        return results

    def _without_model(self, todo: _Todo, engine: Engine, table: Snapshot) -> Answer:
        """By likeness to the history where there is one, else by popularity."""
        if not self._nothing_known(todo):
            todo.reasons.append(NO_TIME)
        user = todo.known.user
        if user and user.history.item_ids:
            past = table.contents.vectors[table.slots[table.rows(user.history.item_ids)]].sum(0)  # (D,)
            candidates = table.contents.vectors[table.slots[todo.query.rows]]  # (C, D)
            cosine = torch.nn.functional.cosine_similarity(candidates, past, dim=-1)
            return Answer(cosine.cpu().numpy(), "semantic", tuple(todo.reasons), "", user)
        counts = engine.popularity.counts(todo.query.rows.cpu().numpy(), todo.ask.now_ms)
        return Answer(counts[:, -1], "popularity", tuple(todo.reasons), "", user)
