"""The ranking service over HTTP: candidates in, scores out, within a budget.

A missing feature never fails a request: the response names the fallback level that answered it, and the reasons.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from reaseq.ranker.explain import explain
from reaseq.settings import ServiceSettings
from serving import metrics
from serving.access import BodyLimit, HostCheck, report_invalid, require_api_key
from serving.api import (
    BatchRankingRequest,
    BatchRankingResponse,
    ExplainRequest,
    ExplainResponse,
    RankingRequest,
    RankingResponse,
    Readiness,
    Status,
    json_response,
)
from serving.degradation import DegradingRanker, RankingResult, RankingTask
from serving.micro_batching import MicroBatcher, Overloaded
from serving.shadow import Comparison, Shadow

CANDIDATES_EXPLAINED = 500  # if the request names none
EXPLANATIONS_LIMIT = 8  # explanations that may wait at once
RETRY_AFTER = {"Retry-After": "1"}  # seconds


@dataclass(frozen=True)
class AppState:
    """What the application serves.

    `waiting_for` names what the service still waits for, None if it is ready; `failure` says why only a restart helps.
    """

    ranker: DegradingRanker
    settings: ServiceSettings
    waiting_for: Callable[[], str | None] = lambda: None
    failure: Callable[[], str | None] = lambda: None
    shadow: Shadow | None = None
    on_ranked: Callable[[RankingTask, RankingResult], None] = lambda task, result: None  # called for every result of a model


def create_app(state: AppState) -> FastAPI:
    """The web application of the ranking service."""
    # FastAPI's pages of documentation load scripts from another site, on the origin that keeps the console's key.
    app = FastAPI(title="ReaSeq ranking service", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, limit_bytes=state.settings.body_limit_bytes)
    app.add_middleware(HostCheck, hosts=state.settings.hosts)
    app.add_exception_handler(RequestValidationError, report_invalid)
    with_key = [Depends(require_api_key(state.settings))]
    app.include_router(_ranking_routes(state), dependencies=with_key)
    app.include_router(_metrics_routes(state), dependencies=[] if state.settings.open_metrics else with_key)
    app.include_router(_probe_routes(state))
    app.get("/openapi.json", include_in_schema=False, dependencies=with_key)(lambda: json_response(app.openapi()))
    return app


def _ranking_routes(state: AppState) -> APIRouter:
    ranking = RankingEndpoints(state)
    explanation = ExplainEndpoint(state, ranking)
    routes = APIRouter(prefix="/v1", tags=["ranking"])
    routes.post("/rank", responses={200: {"model": RankingResponse}})(ranking.rank)
    routes.post("/rank/batch", responses={200: {"model": BatchRankingResponse}})(ranking.rank_batch)
    routes.post("/explain", responses={200: {"model": ExplainResponse}})(explanation.explain)
    routes.get("/shadow")(ranking.compare_shadow)
    return routes


def _probe_routes(state: AppState) -> APIRouter:
    routes = APIRouter(tags=["probes"])

    @routes.get("/healthz")
    async def health(response: Response) -> Status:
        """Whether the process is alive."""
        failure = state.failure()
        response.status_code = 503 if failure else 200
        return Status(status=failure or "ok")

    @routes.get("/readyz")
    async def readiness(response: Response) -> Readiness:
        """Whether the service has caught up with its topics and is not draining."""
        waiting_for = state.waiting_for()
        response.status_code = 503 if waiting_for else 200
        status = f"waiting for {waiting_for}" if waiting_for else "ready"
        return Readiness(status=status, model=state.ranker.engine.version)

    return routes


def _metrics_routes(state: AppState) -> APIRouter:
    routes = APIRouter(tags=["metrics"])

    @routes.get("/metrics")
    async def scrape() -> Response:
        """Prometheus metrics."""
        table, aggregates = state.ranker.engine.table, state.ranker.engine.aggregates
        metrics.TABLE_ITEMS.set(len(table.snapshot) - 1)
        metrics.TABLE_BYTES.set(table.nbytes)
        metrics.AGGREGATES_BYTES.set(aggregates.nbytes)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return routes


class RankingEndpoints:
    """Ranks single requests and batches through one micro-batcher."""

    def __init__(self, state: AppState) -> None:
        settings = state.settings
        self._state = state
        self._batcher = MicroBatcher(state.ranker.rank, settings.batch_limit_candidates, settings.queue_limit_requests)

    async def rank(self, request: RankingRequest) -> Response:
        """Rank the candidates for the user."""
        return json_response(await self._rank(request))

    async def rank_batch(self, batch: BatchRankingRequest) -> Response:
        """Rank for several users at once."""
        limit = self._state.settings.batch_limit_requests
        if len(batch.requests) > limit:
            metrics.REJECTED.labels("too_large").inc()
            raise HTTPException(422, f"{len(batch.requests)} requests; the limit is {limit}")
        _check_candidates(
            sum(len(request.candidate_ids) for request in batch.requests), self._state.settings.call_limit_candidates
        )
        return json_response({"responses": await asyncio.gather(*map(self._rank, batch.requests))})

    async def compare_shadow(self) -> Comparison:
        """How the shadow model compares with the serving model."""
        if not self._state.shadow:
            raise HTTPException(404, "no shadow model is configured: set REASEQ_SERVICE__SHADOW_VERSION")
        return self._state.shadow.report()

    async def submit(self, task: RankingTask) -> RankingResult:
        """Rank a task in the next micro-batch. Raises HTTPException if the queue is full."""
        try:
            return await asyncio.wrap_future(self._batcher.submit(task))
        except Overloaded:
            metrics.REJECTED.labels("overloaded").inc()
            raise HTTPException(503, "too many requests are waiting: try again later", RETRY_AFTER) from None

    async def _rank(self, request: RankingRequest) -> dict[str, Any]:
        arrived_s = time.monotonic()
        task = build_task(request, self._state.settings, arrived_s)
        result = await self.submit(task)
        took_s = time.monotonic() - arrived_s
        _count(result, took_s)
        if result.model:
            self._state.on_ranked(task, result)
            if self._state.shadow:
                self._state.shadow.offer(task, result)
        return build_response(task, result, request.limit, took_s)


class ExplainEndpoint:
    """Explains rankings one at a time, so that they never delay the rankings of users."""

    def __init__(self, state: AppState, ranking: RankingEndpoints) -> None:
        self._state = state
        self._ranking = ranking
        self._one_at_a_time = asyncio.Semaphore(1)
        self._waiting = 0

    async def explain(self, request: ExplainRequest) -> Response:
        """Rank, and explain the best candidates; a ranking without the model has no explanations."""
        if self._waiting >= EXPLANATIONS_LIMIT:
            metrics.REJECTED.labels("overloaded").inc()
            raise HTTPException(503, "too many explanations are waiting: try again later", RETRY_AFTER)
        self._waiting += 1
        try:
            async with self._one_at_a_time:
                return json_response(await self._explain(request))
        finally:
            self._waiting -= 1

    async def _explain(self, request: ExplainRequest) -> dict[str, Any]:
        ranker, arrived_s = self._state.ranker, time.monotonic()
        engine = ranker.engine
        candidate_ids = request.candidate_ids or await asyncio.to_thread(ranker.popular, CANDIDATES_EXPLAINED)
        if not candidate_ids:
            raise HTTPException(404, "no item is on sale")
        named = request.model_copy(update={"candidate_ids": candidate_ids})
        task = build_task(named, self._state.settings, arrived_s)
        result = await self._ranking.submit(task)
        response = build_response(task, result, request.limit, time.monotonic() - arrived_s)
        if result.model and result.model != engine.version:
            raise HTTPException(503, "the ranker was replaced during the request: try again", RETRY_AFTER)
        best = [ranked["item_id"] for ranked in response["ranked"]]
        explanations = await asyncio.to_thread(explain, engine, result.user, best, task.now_ms) if result.model else []
        return {**response, "time_ms": task.now_ms, "candidates": len(candidate_ids), "explanations": explanations}


def build_task(request: RankingRequest, settings: ServiceSettings, arrived_s: float) -> RankingTask:
    """The request with its time and deadline filled in. Raises HTTPException if it has too many candidates."""
    _check_candidates(len(request.candidate_ids), settings.candidates_limit)
    now_ms = request.time_ms if request.time_ms is not None else int(time.time() * 1000)
    budget_ms = request.budget_ms if request.budget_ms is not None else settings.budget_ms
    return RankingTask(request.user_id, request.candidate_ids, now_ms, arrived_s + budget_ms / 1000)


def build_response(task: RankingTask, result: RankingResult, limit: int | None, took_s: float) -> dict[str, Any]:
    """The fields of a `RankingResponse`."""
    order = np.argsort(-result.scores, kind="stable")[:limit].tolist()
    scores = result.scores.tolist()
    return {
        "user_id": task.user_id,
        "model": result.model,
        "fallback_level": result.fallback_level,
        "degraded": result.reasons,
        "ranked": [{"item_id": task.candidate_ids[index], "score": scores[index]} for index in order],
        "features_time_ms": result.user.event_time_ms if result.user else None,
        "took_ms": round(took_s * 1000, 3),
    }


def _check_candidates(count: int, limit: int) -> None:
    if count > limit:
        metrics.REJECTED.labels("too_large").inc()
        raise HTTPException(422, f"{count} candidates; the limit is {limit}")


def _count(result: RankingResult, took_s: float) -> None:
    metrics.REQUESTS.labels(result.fallback_level).inc()
    metrics.LATENCY.observe(took_s)
    for reason in result.reasons:
        metrics.DEGRADED.labels(reason).inc()
