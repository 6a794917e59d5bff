"""A client of the ranking service: one connection pool, a deadline for each call, errors that say whether to retry."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx
import msgspec

from reaseq.errors import ReaSeqError
from serving.api import BatchRankingResponse, RankingRequest, RankingResponse

NETWORK_MARGIN_MS = 50.0  # added to the budget for the network round trip


class RankingRejected(ReaSeqError):
    """The request is invalid, too large, or has no valid key. Do not retry it."""


class RankingUnavailable(ReaSeqError):
    """The service is overloaded or did not answer in time. Retry, or show something that needs no ranking."""


class RankingClient:
    """Calls the service at `base_url`. A context manager; threads may share one client."""

    def __init__(self, base_url: str, api_key: str = "", budget_ms: float = 50.0, connections_limit: int = 64) -> None:
        self._budget_ms = budget_ms
        self._http = httpx.Client(
            base_url=base_url,
            headers={"X-API-Key": api_key} if api_key else {},
            timeout=(budget_ms + NETWORK_MARGIN_MS) / 1000,
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

    def rank(self, request: RankingRequest) -> RankingResponse:
        """Rank the candidates. Raises RankingRejected or RankingUnavailable."""
        return RankingResponse.model_validate_json(self._post("/v1/rank", self._body(request)))

    def rank_all(self, requests: Sequence[RankingRequest]) -> list[RankingResponse]:
        """Rank for several users in one call; responses are in the order of the requests."""
        body = {"requests": [self._body(request) for request in requests]}
        return BatchRankingResponse.model_validate_json(self._post("/v1/rank/batch", body)).responses

    def _body(self, request: RankingRequest) -> dict[str, Any]:
        return {"budget_ms": self._budget_ms} | request.model_dump(exclude_none=True)

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
