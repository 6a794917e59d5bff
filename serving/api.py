"""The HTTP interface of the ranking service: the single source for its OpenAPI document, the client and the console."""

from typing import Annotated, Literal

import msgspec
from fastapi import Response
from pydantic import AfterValidator, BaseModel, FailFast, Field, StringConstraints
from pydantic.config import JsonDict

from reaseq.records import EARLIEST_TIME_MS, ID_LIMIT_CHARS, TIME_LIMIT_MS, describe_wrong_time

FallbackLevel = Literal["fresh", "last_known", "semantic", "popularity"]

BUDGET_LIMIT_MS = 60_000.0


def _check_time(time_ms: int) -> int:
    if problem := describe_wrong_time(time_ms):
        raise ValueError(f"the time {problem}")
    return time_ms


_BOUNDS: JsonDict = {"minimum": EARLIEST_TIME_MS, "maximum": TIME_LIMIT_MS}
TimeMs = Annotated[int, AfterValidator(_check_time), Field(json_schema_extra=_BOUNDS)]  # the bounds of a record's event time
Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_LIMIT_CHARS)]
Ids = Annotated[list[Id], FailFast()]  # the first wrong one is enough: to describe 300,000 takes longer than to rank


class RankingRequest(BaseModel):
    """Candidates to rank for one user. `time_ms` defaults to now; `limit` returns only that many of the best."""

    user_id: Id
    candidate_ids: Ids = Field(min_length=1)
    time_ms: TimeMs | None = None
    budget_ms: float | None = Field(default=None, gt=0, le=BUDGET_LIMIT_MS)
    limit: int | None = Field(default=None, ge=1)


class RankedItem(BaseModel):
    """One candidate. The model's score is the probability that the user's next basket contains the item; a score from a
    level without the model only orders the response."""

    item_id: str
    score: float


class RankingResponse(BaseModel):
    """Candidates from best to worst, the fallback level that ranked them, and the reasons for that level."""

    user_id: str
    model: str  # empty if no model was used
    fallback_level: FallbackLevel
    degraded: list[str]
    ranked: list[RankedItem]
    features_time_ms: int | None  # event time of the user's newest known behavior
    took_ms: float


class BatchRankingRequest(BaseModel):
    """Several requests, answered in order."""

    requests: Annotated[list[RankingRequest], FailFast()] = Field(min_length=1)


class BatchRankingResponse(BaseModel):
    """The responses to a batch, in the order of its requests."""

    responses: list[RankingResponse]


class ExplainRequest(RankingRequest):
    """Candidates to rank and explain. If there are none, ranks the most popular items on sale. Explains the best `limit`."""

    candidate_ids: Ids = []
    limit: int = Field(default=5, ge=1, le=20)


class BehaviorContribution(BaseModel):
    """How much log-odds a candidate loses if one behavior is removed."""

    item_id: str
    time_ms: int | None  # None: inferred
    confidence: float
    log_odds: float


class ItemExplanation(BaseModel):
    """One candidate's probability and the behaviors behind it, largest contribution first."""

    item_id: str
    probability: float
    behaviors: list[BehaviorContribution]
    groups: dict[str, float]  # log-odds lost if a whole group of features is removed
    item_time_ms: int  # when the item was listed
    history_time_ms: int | None  # the newest real behavior
    inferred_time_ms: int | None  # the time up to which inference had seen events


class ExplainResponse(RankingResponse):
    """A ranking with explanations, which are empty if the model did not rank."""

    time_ms: int
    candidates: int
    explanations: list[ItemExplanation]


class Status(BaseModel):
    """Liveness or readiness."""

    status: str


class Readiness(Status):
    """Whether the service can rank, and with which model."""

    model: str


def json_response(content: object, status: int = 200) -> Response:
    """Encode with msgspec: for hundreds of candidates pydantic would take longer than the model."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")
