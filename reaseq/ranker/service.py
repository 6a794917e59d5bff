"""The ranking service: candidates in, scores out, over HTTP.

A missing feature never makes a request fail: the response names what it had to do without.
"""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from pydantic import BaseModel, Field, StringConstraints

from reaseq.errors import StoreUnavailable
from reaseq.ranker.engine import Engine
from reaseq.records import ID_LIMIT_CHARS, TIME_LIMIT_MS, UserFeatures

RANK_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1)
REQUESTS = Counter("reaseq_rank_requests", "Ranking requests answered")
DEGRADED = Counter("reaseq_rank_degraded", "Ranking requests answered without some feature", ["step"])
LATENCY = Histogram("reaseq_rank_seconds", "Feature read and scoring of one request", buckets=RANK_BUCKETS_S)

NO_STORE = "no_user_features"  # the feature store does not answer
UNKNOWN_USER = "unknown_user"
UNKNOWN_CANDIDATES = "unknown_candidates"

Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_LIMIT_CHARS)]


class UserReader(Protocol):
    """Where a user's features are read."""

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]: ...


class RankRequest(BaseModel):
    """Who is to be shown what. `time_ms` is the moment to rank for; without it, now."""

    user_id: Id
    candidate_ids: list[Id] = Field(min_length=1)
    time_ms: int | None = Field(default=None, ge=0, le=TIME_LIMIT_MS)


class Ranked(BaseModel):
    """One candidate; a greater score is better. Scores order one response and mean nothing beyond it."""

    item_id: str
    score: float


class RankResponse(BaseModel):
    """Candidates from best to worst, and what the ranking had to do without."""

    user_id: str
    model: str
    ranked: list[Ranked]
    degraded: list[str]
    features_time_ms: int | None  # event time of the newest behaviour that was known of the user
    took_ms: float


def create_app(engine: Engine, store: UserReader, ready: Callable[[], str | None], candidates_limit: int) -> FastAPI:
    """The service. `ready` says what it still waits for, None when it can serve."""
    app = FastAPI(title="ReaSeq ranking service", version="1")

    @app.post("/v1/rank")
    def rank(request: RankRequest) -> RankResponse:
        """Rank the candidates for the user."""
        if len(request.candidate_ids) > candidates_limit:
            raise HTTPException(422, f"{len(request.candidate_ids)} candidates, the limit is {candidates_limit}")
        started = time.perf_counter()
        user, degraded = _user(store, request.user_id)
        if any(not engine.table.knows(item_id) for item_id in request.candidate_ids):
            degraded.append(UNKNOWN_CANDIDATES)
        now_ms = request.time_ms if request.time_ms is not None else int(time.time() * 1000)
        scores = engine.score(user, request.candidate_ids, now_ms)
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        took_s = time.perf_counter() - started
        REQUESTS.inc()
        LATENCY.observe(took_s)
        for step in degraded:
            DEGRADED.labels(step).inc()
        return RankResponse(
            user_id=request.user_id,
            model=engine.version,
            ranked=[Ranked(item_id=request.candidate_ids[place], score=float(scores[place])) for place in order],
            degraded=degraded,
            features_time_ms=user.event_time_ms if user else None,
            took_ms=round(took_s * 1000, 3),
        )

    @app.get("/healthz")
    def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readiness(response: Response) -> dict[str, str]:
        """Whether the item table has caught up with its topic."""
        waiting_for = ready()
        response.status_code = 503 if waiting_for else 200
        return {"status": f"waiting for {waiting_for}" if waiting_for else "ready", "model": engine.version}

    @app.get("/metrics")
    def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _user(store: UserReader, user_id: str) -> tuple[UserFeatures | None, list[str]]:
    try:
        user = store.read_users([user_id]).get(user_id)
    except StoreUnavailable:
        return None, [NO_STORE]
    return user, [] if user else [UNKNOWN_USER]
