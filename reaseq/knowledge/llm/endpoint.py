"""A client for an OpenAI-compatible chat-completions endpoint, with limits on concurrency, time, size and retries."""

import asyncio
import json
import random
import time
from http import HTTPStatus
from typing import Any

import aiohttp
import structlog

from reaseq.backoff import Backoff
from reaseq.errors import EndpointUnavailable
from reaseq.knowledge import metrics
from reaseq.knowledge.llm.priority_semaphore import PrioritySemaphore
from reaseq.knowledge.llm.request import Completion, LlmRequest, Model, Usage
from reaseq.knowledge.llm.retries import CircuitBreaker, RetryPolicy, Timeouts
from reaseq.settings import LlmSettings

log = structlog.get_logger()

KEEP_ALIVE_S = 2.0  # shorter than servers keep idle connections open, so that no request races with a close

# Faults of the endpoint or of its configuration (wrong key, unknown model, a proxy's error page) rather than of the item.
# They are retried.
_ENDPOINT_FAULTS = {f"http_{status}" for status in (401, 403, 404, 408, 425, 429, *range(500, 600))} | {"garbage_response"}


class Endpoint:
    """Sends requests. Belongs to one event loop."""

    def __init__(self, settings: LlmSettings) -> None:
        self.model = to_model(settings)
        self._settings = settings
        self._timeouts = Timeouts(settings.connect_timeout_s, settings.answer_timeout_s)
        self._retries = RetryPolicy(settings.attempts_limit, Backoff(settings.retry_first_s, settings.retry_limit_s))
        self._breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_open_s)
        self._semaphore = PrioritySemaphore(settings.concurrency_limit_calls)
        self._jitter = random.Random()  # noqa: S311  not a secret
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, request: LlmRequest) -> Completion:
        """Send a request; returns its answer, or a completion with the reason why there is none.

        Raises EndpointUnavailable if the endpoint is down or its circuit breaker is open; the same request may succeed later.
        """
        async with self._semaphore.acquire(request.priority):
            started = time.perf_counter()
            for attempt in range(self._retries.attempts):
                if not self._breaker.admit():
                    raise EndpointUnavailable(f"{self._settings.base_url} failed repeatedly; the circuit breaker is open")
                completion = await self._attempt(request, started, attempt)
                metrics.BREAKER_OPEN.set(self._breaker.is_open)
                if completion:
                    return completion
                if attempt + 1 < self._retries.attempts and not self._breaker.is_open:
                    await asyncio.sleep(self._retries.backoff.wait_s(attempt, self._jitter))
            if self._breaker.is_open or not await self._is_reachable():
                raise EndpointUnavailable(f"{self._settings.base_url} does not respond")
        # The endpoint responds, so this request is at fault; more retries would block all others.
        return Completion(rejected="no_answer", usage=Usage(seconds=time.perf_counter() - started, retries=attempt))

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()

    async def _attempt(self, request: LlmRequest, started: float, attempt: int) -> Completion | None:
        try:
            status, payload = await self._post(request.body(self.model))
        except (aiohttp.ClientError, TimeoutError) as error:
            self._record_failure(request, repr(error))
            return None
        except asyncio.CancelledError:
            self._breaker.released()
            raise
        completion = _to_completion(status, payload, time.perf_counter() - started, attempt)
        if completion.rejected in _ENDPOINT_FAULTS:
            self._record_failure(request, f"HTTP {status}: {(payload or b'')[:200]!r}")
            return None
        self._breaker.succeeded()
        if status != HTTPStatus.OK:
            log.warning(
                "call_rejected", agent=request.agent, status=status, answer=(payload or b"")[:500].decode(errors="replace")
            )
        return completion

    async def _is_reachable(self) -> bool:
        try:
            async with self._get_session().get(f"{self._settings.base_url.rstrip('/')}/models") as response:
                return response.ok
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _post(self, body: dict[str, Any]) -> tuple[int, bytes | None]:
        url = f"{self._settings.base_url.rstrip('/')}/chat/completions"
        async with self._get_session().post(url, json=body) as response:
            read = bytearray()
            async for chunk in response.content.iter_any():
                read += chunk
                if len(read) > self._settings.response_limit_bytes:
                    return response.status, None
            return response.status, bytes(read)

    def _get_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = self._settings.api_key.get_secret_value()
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeouts.answer_s, sock_connect=self._timeouts.connect_s),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            )
        return self._session

    def _record_failure(self, request: LlmRequest, fault: str) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed()
        metrics.CALLS.labels(request.agent, "failed_attempt").inc()
        if not was_open:  # a failed trial call would only repeat this warning
            log.warning("call_failed", agent=request.agent, fault=fault, breaker_open=self._breaker.is_open)


def to_model(settings: LlmSettings) -> Model:
    """The configured model with its decoding parameters."""
    return Model(
        settings.model,
        settings.revision,
        settings.temperature,
        settings.seed,
        settings.answer_limit_tokens,
        settings.extra_body,
    )


def _to_completion(status: int, payload: bytes | None, seconds: float, retries: int) -> Completion:
    """Convert a response; `payload` is None if it exceeded the size limit."""
    if status != HTTPStatus.OK:
        return Completion(rejected=f"http_{status}", usage=Usage(seconds=seconds, retries=retries))
    if payload is None:
        return Completion(rejected="too_large", usage=Usage(seconds=seconds, retries=retries))
    return parse_completion(payload, seconds, retries)


def parse_completion(payload: bytes | dict[str, Any], seconds: float = 0.0, retries: int = 0) -> Completion:
    """Parse the body of a chat-completions response."""
    try:
        answer = json.loads(payload) if isinstance(payload, bytes) else payload
        counted = answer["usage"]
        cached = (counted.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        usage = Usage(int(counted["prompt_tokens"]), int(cached), int(counted["completion_tokens"]), seconds, retries)
        choice = answer["choices"][0]
        text, finished = choice["message"]["content"], choice["finish_reason"]
        (text or "").encode()  # JSON allows a lone surrogate, UTF-8 does not
    except (ValueError, LookupError, TypeError, AttributeError):
        return Completion(rejected="garbage_response", usage=Usage(seconds=seconds, retries=retries))
    if not isinstance(text, str) or not text.strip():
        return Completion(rejected="empty_answer", usage=usage)
    if finished == "length":
        return Completion(text=text, rejected="truncated", usage=usage)
    return Completion(text=text, usage=usage)
