"""A client for an OpenAI-compatible chat-completions endpoint, with limits on concurrency, rate, time, size and retries.

What the endpoint answers to everybody is never taken for an item's fault: where a request is refused or keeps failing, a
control request with the same prompt and a harmless item distinguishes the two.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

import aiohttp
import structlog

from reaseq.backoff import Backoff
from reaseq.errors import EndpointUnavailable
from reaseq.knowledge import metrics
from reaseq.knowledge.llm.adaptive_rate import AdaptiveRate
from reaseq.knowledge.llm.priority_semaphore import PrioritySemaphore
from reaseq.knowledge.llm.request import Completion, LlmRequest, Model
from reaseq.knowledge.llm.response import Failed, Outcome, Refused, Throttled, read_response
from reaseq.knowledge.llm.retries import CircuitBreaker, RetryPolicy, Timeouts
from reaseq.settings import LlmSettings

log = structlog.get_logger()

T = TypeVar("T", str, bytes)

KEEP_ALIVE_S = 2.0  # shorter than servers keep idle connections open, so that no request races with a close
QUIET_S = 600.0  # without a refusal for the rate of calls, after which the next one is worth a warning
CONTROL_USER = '{"item":{"title":"BLUE CERAMIC MUG"}}'
CONTROL_LIMIT_TOKENS = 16  # some services accept no lower limit


class _Tried(NamedTuple):
    outcome: Completion | Refused | Failed
    failures: int  # attempts before the outcome
    is_trial: bool  # of an open circuit breaker


class Endpoint:
    """Sends requests. Belongs to one event loop."""

    def __init__(self, settings: LlmSettings) -> None:
        self.model = to_model(settings)
        self._settings = settings
        self._timeouts = Timeouts(settings.connect_timeout_s, settings.answer_timeout_s)
        self._retries = RetryPolicy(settings.attempts_limit, Backoff(settings.retry_first_s, settings.retry_limit_s))
        self._breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_open_s)
        self._semaphore = PrioritySemaphore(settings.concurrency_limit_calls)
        self._turn = PrioritySemaphore(1)  # to send the next request, where the rate is limited
        self._rate = AdaptiveRate(self._retries.backoff)
        self._control = asyncio.Lock()
        self._jitter = random.Random()  # noqa: S311  not a secret
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, request: LlmRequest) -> Completion:
        """Send a request; returns its answer, or a completion with the reason why there is none for this request alone.

        Waits while the endpoint refuses calls for their rate; that costs no attempt. Raises EndpointUnavailable if the endpoint
        is down, refuses every call, or its circuit breaker is open; the same request may succeed later.
        """
        async with self._semaphore.acquire(request.priority):
            started = time.perf_counter()
            outcome, failures, is_trial = await self._try(request)
            if not isinstance(outcome, Completion):
                await self._answer_control(request, outcome, is_trial)
                log.warning(
                    "call_rejected", agent=request.agent, reason=outcome.reason, answer=self._without_key(outcome.words)
                )
                outcome = Completion(rejected=outcome.reason)
            usage = replace(outcome.usage, seconds=time.perf_counter() - started, retries=failures)
            return replace(outcome, usage=usage)

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()

    async def _try(self, request: LlmRequest) -> _Tried:
        """The outcome of up to `attempts` attempts."""
        failures = 0
        while True:
            is_trial = self._breaker.is_open
            if not self._breaker.admit():
                raise self._unavailable("failed repeatedly or refuses every call; the circuit breaker is open")
            outcome = await self._attempt(request, self.model)
            match outcome:
                case Throttled():
                    limit_s = self._timeouts.answer_s
                    if self._rate.refusing_s > limit_s or self._rate.pause_s > limit_s:
                        raise self._unavailable(outcome.words)
                case Failed():
                    if self._breaker.is_open or failures + 1 == self._retries.attempts:
                        return _Tried(outcome, failures, is_trial)
                    await asyncio.sleep(self._retries.backoff.wait_s(failures, self._jitter))
                    failures += 1
                case _:
                    return _Tried(outcome, failures, is_trial)

    async def _answer_control(self, request: LlmRequest, outcome: Refused | Failed, is_trial: bool) -> None:
        """Returns if the endpoint answers a harmless request, so that this one is at fault; else raises EndpointUnavailable."""
        async with self._control:
            if self._breaker.is_open and not (
                is_trial and isinstance(outcome, Refused)
            ):  # the endpoint is known to be at fault
                raise self._unavailable(outcome.words)
            control = await self._attempt(_control(request), replace(self.model, answer_limit_tokens=CONTROL_LIMIT_TOKENS))
            if isinstance(control, Completion):
                return
            if isinstance(control, Refused):
                if not is_trial:  # a trial would only repeat this warning
                    log.warning("endpoint_refuses", agent=request.agent, answer=self._without_key(control.words))
                self._breaker.trip()
                metrics.BREAKER_OPEN.set(True)
            raise self._unavailable(control.words)

    async def _attempt(self, request: LlmRequest, model: Model) -> Outcome:
        """Send a request once, in its turn, and record what the outcome says about the endpoint."""
        try:
            async with self._turn.acquire(request.priority):
                if self._rate.pause_s > self._timeouts.answer_s:
                    raise self._unavailable(f"asked to be called again in {self._rate.pause_s:.0f} s")
                sent_at = await self._rate.wait()
            outcome = await self._post(request, model)
        except BaseException:
            self._breaker.released()
            raise
        if isinstance(outcome, Throttled):
            self._record_throttling(request, outcome, sent_at)
        elif isinstance(outcome, Failed):
            self._record_failure(request, outcome)
        else:
            self._rate.accepted()
            if isinstance(outcome, Completion):
                self._breaker.succeeded()
        metrics.BREAKER_OPEN.set(self._breaker.is_open)
        return outcome

    async def _post(self, request: LlmRequest, model: Model) -> Outcome:
        try:
            status, headers, payload = await self._exchange(request.body(model))
        except aiohttp.ClientResponseError as error:  # its repr has the headers
            return Failed(" ".join(f"no valid HTTP response: {error.message}".split()))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:  # ValueError: there is no base URL
            return Failed(repr(error))
        if status == HTTPStatus.OK and len(payload) > self._settings.response_limit_bytes:
            return Refused(f"a response of more than {self._settings.response_limit_bytes} bytes", "too_large")
        return read_response(status, headers, self._without_key(payload), request)

    async def _exchange(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and payload, of which not much more than the size limit is read."""
        url = f"{self._settings.base_url.rstrip('/')}/chat/completions"
        async with self._get_session().post(url, json=body, allow_redirects=False) as response:
            read = bytearray()
            async for chunk in response.content.iter_any():
                read += chunk
                if len(read) > self._settings.response_limit_bytes:
                    break
            return response.status, response.headers, bytes(read)

    def _get_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = self._settings.api_key.get_secret_value()
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeouts.answer_s, sock_connect=self._timeouts.connect_s),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            )
        return self._session

    def _record_throttling(self, request: LlmRequest, outcome: Throttled, sent_at: float) -> None:
        self._breaker.released()
        if self._rate.quiet_s > QUIET_S:
            log.warning("rate_limited", answer=self._without_key(outcome.words), retry_after_s=outcome.retry_after_s)
        self._rate.refused(sent_at, outcome.retry_after_s)
        metrics.CALLS.labels(request.agent, "throttled").inc()

    def _record_failure(self, request: LlmRequest, outcome: Failed) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed()
        metrics.CALLS.labels(request.agent, "failed_attempt").inc()
        if not was_open:  # a failed trial call would only repeat this warning
            fault = self._without_key(outcome.words)
            log.warning("call_failed", agent=request.agent, fault=fault, breaker_open=self._breaker.is_open)

    def _unavailable(self, words: str) -> EndpointUnavailable:
        return EndpointUnavailable(f"{self._settings.base_url}: {self._without_key(words)}")

    def _without_key(self, text: T) -> T:
        """The text without the API key, which some servers quote in errors."""
        key = self._settings.api_key.get_secret_value()
        if not key:
            return text
        return text.replace(key.encode(), "…".encode()) if isinstance(text, bytes) else text.replace(key, "…")


def to_model(settings: LlmSettings) -> Model:
    """The configured model with its decoding parameters."""
    return Model(
        settings.model,
        settings.revision,
        settings.temperature,
        settings.seed,
        settings.answer_limit_tokens,
        settings.answer_format,
        settings.extra_body,
    )


def _control(request: LlmRequest) -> LlmRequest:
    """A request that differs only in its item, which no endpoint has a reason to refuse."""
    return LlmRequest(request.agent, request.system, CONTROL_USER, request.schema, request.priority)
