"""A client of the ranking service: one connection pool, a deadline for each call, errors that say what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx
import msgspec

from reaseq.errors import ReaSeqError

MARGIN_MS = 50.0  # beside the budget: the way there and back


class RankingRejected(ReaSeqError):
    """The service will not answer this: the request is not valid, too large, or bears no valid key. Not worth a retry."""


class RankingUnavailable(ReaSeqError):
    """The service did not answer in time, or is overloaded: retry, or show what needs no ranking."""


class RankedItem(msgspec.Struct, frozen=True):
    """One candidate and its score."""

    item_id: str
    score: float


class Ranking(msgspec.Struct, frozen=True):
    """Candidates from best to worst; `step` and `degraded` say what the ranking rests on (see the service)."""

    user_id: str
    model: str
    step: str
    degraded: tuple[str, ...]
    ranked: tuple[RankedItem, ...]
    features_time_ms: int | None
    took_ms: float


class _Rankings(msgspec.Struct, frozen=True):
    responses: tuple[Ranking, ...]


@dataclass(frozen=True)
class Question:
    """One user and the candidates to rank. `time_ms` is the moment to rank for; without it, now."""

    user_id: str
    candidate_ids: Sequence[str]
    time_ms: int | None = None
    limit: int | None = None


class RankingClient:
    """Calls the service at `base_url`. Use it as a context manager, or close it; threads may share one."""

    def __init__(self, base_url: str, api_key: str = "", budget_ms: float = 50.0, connections_limit: int = 64) -> None:
        self._budget_ms = budget_ms
        self._http = httpx.Client(
            base_url=base_url,
            headers={"X-API-Key": api_key} if api_key else {},
            timeout=(budget_ms + MARGIN_MS) / 1000,
            limits=httpx.Limits(max_connections=connections_limit, max_keepalive_connections=connections_limit),
            trust_env=False,
        )

    def __enter__(self) -> "RankingClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rank(self, question: Question) -> Ranking:
        """Rank the candidates. Raises RankingRejected or RankingUnavailable."""
        return msgspec.json.decode(self._post("/v1/rank", self._body(question)), type=Ranking)

    def rank_all(self, questions: Sequence[Question]) -> list[Ranking]:
        """Rank for several users in one call, in their order."""
        body = {"requests": [self._body(question) for question in questions]}
        return list(msgspec.json.decode(self._post("/v1/rank/batch", body), type=_Rankings).responses)

    def _body(self, question: Question) -> dict[str, Any]:
        told = {"time_ms": question.time_ms, "limit": question.limit}
        optional = {name: value for name, value in told.items() if value is not None}
        asked = {"user_id": question.user_id, "candidate_ids": list(question.candidate_ids), "budget_ms": self._budget_ms}
        return asked | optional

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        try:
            response = self._http.post(path, content=msgspec.json.encode(body), headers={"Content-Type": "application/json"})
        except httpx.TransportError as error:
            raise RankingUnavailable(f"{self._http.base_url}: {type(error).__name__} {error}") from error
        if response.status_code >= 500:
            raise RankingUnavailable(f"{self._http.base_url} answered {response.status_code}: {response.text[:200]}")
        if response.status_code >= 400:
            raise RankingRejected(f"{self._http.base_url} answered {response.status_code}: {response.text[:500]}")
        return response.content
