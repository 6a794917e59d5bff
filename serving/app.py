"""The ranking service over HTTP: candidates in, scores out, within a budget.

A missing feature never makes a request fail: the response names the step that answered it, and why.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field, StringConstraints

from reaseq.ranker.explain import explain
from reaseq.records import ID_LIMIT_CHARS, TIME_LIMIT_MS
from reaseq.settings import ServiceSettings
from serving.degradation import Answer, Ask, Ranking
from serving.micro_batching import MicroBatcher, Overloaded
from serving.shadow import Comparison, Shadow

CANDIDATES_EXPLAINED = 500  # where nobody named any
EXPLANATIONS_LIMIT = 8  # that wait for each other
RANK_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1)
REQUESTS = Counter("reaseq_rank_requests", "Ranking requests answered, by the step that answered them", ["step"])
REASONS = Counter("reaseq_rank_degraded", "Why requests were answered without something", ["reason"])
REJECTED = Counter("reaseq_rank_rejected", "Ranking requests rejected", ["reason"])
LATENCY = Histogram("reaseq_rank_seconds", "One ranking request from its arrival to its answer", buckets=RANK_BUCKETS_S)
TABLE_ITEMS = Gauge("reaseq_item_table_items", "Items in the item table, with those no longer on sale")
TABLE_BYTES = Gauge("reaseq_item_table_bytes", "Bytes of the item table's tensors, with their room to grow")

Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_LIMIT_CHARS)]


class RankRequest(BaseModel):
    """Who is to be shown what. `time_ms` is the moment to rank for; without it, now. `limit` keeps the best so many."""

    user_id: Id
    candidate_ids: list[Id] = Field(min_length=1)
    time_ms: int | None = Field(default=None, ge=0, le=TIME_LIMIT_MS)
    budget_ms: float | None = Field(default=None, gt=0)
    limit: int | None = Field(default=None, ge=1)


class ExplainRequest(RankRequest):
    """Who is to be shown what, and why. Without candidates, the most popular items on sale; `limit` are explained."""

    candidate_ids: list[Id] = []
    limit: int = Field(default=5, ge=1, le=20)


class RankBatch(BaseModel):
    """Several requests, answered in their order."""

    requests: list[RankRequest] = Field(min_length=1)


class Ranked(BaseModel):
    """One candidate. Of the model, the score is the probability that the user's next basket holds it; of the steps without
    the model it only orders the response."""

    item_id: str
    score: float


class RankResponse(BaseModel):
    """Candidates from best to worst, the step that ranked them (fresh, last_known, semantic, popularity), and why that one."""

    user_id: str
    model: str  # empty where no model was used
    step: str
    degraded: list[str]
    ranked: list[Ranked]
    features_time_ms: int | None  # event time of the newest behavior that was known of the user
    took_ms: float


class RankResponses(BaseModel):
    """The answers to a batch, in its order."""

    responses: list[RankResponse]


@dataclass(frozen=True)
class Service:
    """What the web service works with. `waiting_for` says what it is not ready without, None when it can serve."""

    ranking: Ranking
    settings: ServiceSettings
    waiting_for: Callable[[], str | None] = lambda: None
    shadow: Shadow | None = None
    served: Callable[[Ask, Answer], None] = lambda ask, answer: None  # hears of every answer by the model


def create_app(service: Service) -> FastAPI:
    """The web service."""
    settings, ranking = service.settings, service.ranking
    batcher = MicroBatcher(ranking.answer, settings.batch_limit_candidates, settings.queue_limit_requests)
    app = FastAPI(title="ReaSeq ranking service", version="1")
    app.add_middleware(_BodyLimit, limit_bytes=settings.body_limit_bytes)
    allowed = [Depends(key_check(settings))]

    async def submitted(ask: Ask) -> Answer:
        try:
            return await asyncio.wrap_future(batcher.submit(ask))
        except Overloaded:
            REJECTED.labels("overloaded").inc()
            raise HTTPException(503, "too many requests wait", {"Retry-After": "1"}) from None

    async def answer(request: RankRequest) -> dict[str, Any]:
        asked_s = time.monotonic()
        ask = _ask(request, settings, asked_s)
        found = await submitted(ask)
        took_s = time.monotonic() - asked_s
        _count(found, took_s)
        if found.model:
            service.served(ask, found)
            if service.shadow:
                service.shadow.offer(ask, found)
        return _response(ask, found, request.limit, took_s)

    @app.post("/v1/rank", dependencies=allowed, responses={200: {"model": RankResponse}})
    async def rank(request: RankRequest) -> Response:
        """Rank the candidates for the user."""
        return json_response(await answer(request))

    @app.post("/v1/rank/batch", dependencies=allowed, responses={200: {"model": RankResponses}})
    async def rank_batch(batch: RankBatch) -> Response:
        """Rank for several users at once."""
        if len(batch.requests) > settings.batch_limit_requests:
            REJECTED.labels("too_large").inc()
            raise HTTPException(422, f"{len(batch.requests)} requests, the limit is {settings.batch_limit_requests}")
        return json_response({"responses": await asyncio.gather(*map(answer, batch.requests))})

    explaining = asyncio.Semaphore(1)  # people wait for each other, so that what is ranked for users does not wait for them
    waiting = 0

    @app.post("/v1/explain", dependencies=allowed)
    async def explained(request: ExplainRequest) -> Response:
        """Rank, and say what carried each of the best: nothing of those that were ranked without the model."""
        nonlocal waiting
        if waiting >= EXPLANATIONS_LIMIT:
            REJECTED.labels("overloaded").inc()
            raise HTTPException(503, "too many explanations wait", {"Retry-After": "1"})
        waiting += 1
        try:
            async with explaining:
                return await explanation(request)
        finally:
            waiting -= 1

    async def explanation(request: ExplainRequest) -> Response:
        engine = ranking.engine
        candidate_ids = request.candidate_ids or await asyncio.to_thread(ranking.popular, CANDIDATES_EXPLAINED)
        if not candidate_ids:
            raise HTTPException(404, "no item is on sale")
        asked_s = time.monotonic()
        ask = _ask(request.model_copy(update={"candidate_ids": candidate_ids}), settings, asked_s)
        found = await submitted(ask)
        told = _response(ask, found, request.limit, time.monotonic() - asked_s)
        best = [of["item_id"] for of in told["ranked"]]
        if found.model and found.model != engine.version:
            raise HTTPException(503, "the ranker has just been exchanged", {"Retry-After": "1"})
        why = await asyncio.to_thread(explain, engine, found.user, best, ask.now_ms) if found.model else []
        return json_response({**told, "time_ms": ask.now_ms, "candidates": len(candidate_ids), "explanations": why})

    @app.get("/v1/shadow", dependencies=allowed)
    async def shadow() -> Comparison:
        """How the shadow model compares with the one that serves."""
        if not service.shadow:
            raise HTTPException(404, "no shadow model is set")
        return service.shadow.report()

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readiness(response: Response) -> dict[str, str]:
        """Whether the service has caught up with its topics, and is not about to end."""
        waiting_for = service.waiting_for()
        response.status_code = 503 if waiting_for else 200
        return {"status": f"waiting for {waiting_for}" if waiting_for else "ready", "model": ranking.engine.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics."""
        table = ranking.engine.table
        TABLE_ITEMS.set(len(table.snapshot) - 1)
        TABLE_BYTES.set(table.nbytes)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _ask(request: RankRequest, settings: ServiceSettings, asked_s: float) -> Ask:
    count = len(request.candidate_ids)
    if count > settings.candidates_limit:
        REJECTED.labels("too_large").inc()
        raise HTTPException(422, f"{count} candidates, the limit is {settings.candidates_limit}")
    now_ms = request.time_ms if request.time_ms is not None else int(time.time() * 1000)
    budget_ms = request.budget_ms if request.budget_ms is not None else settings.budget_ms
    return Ask(request.user_id, request.candidate_ids, now_ms, asked_s + budget_ms / 1000)


def _count(answer: Answer, took_s: float) -> None:
    REQUESTS.labels(answer.step).inc()
    LATENCY.observe(took_s)
    for reason in answer.reasons:
        REASONS.labels(reason).inc()


def _response(ask: Ask, answer: Answer, limit: int | None, took_s: float) -> dict[str, Any]:
    order = np.argsort(-answer.scores, kind="stable")[:limit].tolist()
    scores = answer.scores.tolist()
    return {
        "user_id": ask.user_id,
        "model": answer.model,
        "step": answer.step,
        "degraded": answer.reasons,
        "ranked": [{"item_id": ask.candidate_ids[place], "score": scores[place]} for place in order],
        "features_time_ms": answer.user.event_time_ms if answer.user else None,
        "took_ms": round(took_s * 1000, 3),
    }


def json_response(content: object, status: int = 200) -> Response:
    """Encoded by msgspec: hundreds of candidates would keep pydantic busy for longer than the model."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def key_check(settings: ServiceSettings) -> Callable[..., Awaitable[None]]:
    """Lets in who bears one of the keys in `X-API-Key`; everybody where there are none."""
    keys = [key.get_secret_value() for key in settings.api_keys]

    async def check(given: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]) -> None:
        # Every key is compared, in constant time: neither which one nor how much of it was right can be told from outside.
        if keys and not any([hmac.compare_digest(key.encode(), (given or "").encode()) for key in keys]):
            REJECTED.labels("key").inc()
            raise HTTPException(401, "a valid X-API-Key is needed")

    return check


class _BodyLimit:
    """ASGI middleware: a request whose body is larger than the limit is rejected before it is read into memory."""

    def __init__(self, app: Any, limit_bytes: int) -> None:
        self._app, self._limit_bytes = app, limit_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def limited() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit_bytes:
                REJECTED.labels("too_large").inc()
                raise HTTPException(413, f"the body is larger than {self._limit_bytes} bytes")
            return message

        await self._app(scope, limited, send)
