"""What an OpenAI-compatible endpoint's response means, in the dialects that servers and gateways speak.

A response is one of four: a completion, whose text may be rejected for a reason of the request's own; a refusal for the rate
of calls; a refusal of the request; or a failure. Only a completion says anything about an item.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import structlog

from reaseq.knowledge.llm.request import TRUNCATED, Completion, LlmRequest, Usage, estimate_tokens
from reaseq.plain_text import plain

log = structlog.get_logger()

WORDS_LIMIT_CHARS = 300
THROTTLING = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, 529}  # 529: overloaded (Anthropic)
LIMIT_REACHED = {"length", "max_tokens"}  # reasons to finish
FAILURES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}  # and all of 5xx: the same call may succeed soon
_usage_is_missing: set[str] = set()  # models whose endpoint sends no usage, to say so once


@dataclass(frozen=True)
class Throttled:
    """The endpoint accepts no more calls for now. `retry_after_s` is None if it does not say for how long."""

    words: str
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Refused:
    """The endpoint refuses the request (4xx, a redirect): this one, or every one. `reason` is a code."""

    words: str
    reason: str


@dataclass(frozen=True)
class Failed:
    """No usable response; the same call may succeed soon."""

    words: str
    reason: str = "no_answer"


Outcome = Completion | Throttled | Refused | Failed


def read_response(status: int, headers: Mapping[str, str], payload: bytes, request: LlmRequest) -> Outcome:
    """The meaning of a response. The usage of a completion lacks time and retries."""
    body = _parse(payload)
    words = f"HTTP {status}: {server_words(body, payload)}"
    error = body.get("error") or {} if isinstance(body, dict) and not body.get("choices") else {}
    if status == HTTPStatus.OK:
        if not error:
            completion = read_completion(body, request)
            return Failed(f"{words} is not a chat completion") if completion is None else completion
        status = _upstream_status(error)
    if status in THROTTLING or _is_about_rate(error):
        return Throttled(words, retry_after_s(headers))
    if status in FAILURES or status >= 500 or status < 300:
        return Failed(words)
    if status < 400:
        words += f" redirects to {plain(headers.get('location', 'nowhere'))[:WORDS_LIMIT_CHARS]}"
    return Refused(words, f"http_{status}")


def read_completion(body: Any, request: LlmRequest) -> Completion | None:
    """The completion in a response's body; None if it is not a chat completion.

    Tokens are estimated if the endpoint does not count them. Accepts content as parts and, where the content is empty, the
    text that some servers put into the reasoning or into a tool call.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"] or {}
        text = _text(message.get("content"))
        finished = str(choice.get("finish_reason") or "stop").lower()
        if not text.strip() and finished not in LIMIT_REACHED:
            text = _other_text(message)
    except (LookupError, TypeError, AttributeError):
        return None
    usage = _read_usage(body, request, text)
    if message.get("refusal"):
        return Completion(rejected="refusal", usage=usage)
    if finished == "content_filter":
        return Completion(rejected="content_filter", usage=usage)
    if finished in LIMIT_REACHED:
        return Completion(text=text, rejected=TRUNCATED, usage=usage)
    return Completion(text=text, rejected="" if text.strip() else "empty_answer", usage=usage)


def server_words(body: Any, payload: bytes) -> str:
    """The server's own words about an error, as one short line."""
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error") or body if isinstance(body, dict) else body
    words = (
        next((error[name] for name in ("message", "detail", "error") if error.get(name)), error)
        if isinstance(error, dict)
        else error
    )
    text = words if isinstance(words, str) else payload.decode(errors="replace")
    return plain(" ".join(text.split()))[:WORDS_LIMIT_CHARS]


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait (RFC 9110: seconds or a date; some services send milliseconds as well)."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit_s
        except ValueError:
            try:
                at = parsedate_to_datetime(value)
            except ValueError:
                continue
            seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return None


def _parse(payload: bytes) -> Any:
    """The body as JSON, or None. Joins the events of a stream, which some proxies send without being asked."""
    try:
        text = payload.decode("utf-8-sig").strip()
        if text.startswith("data:"):
            return _join_events([json.loads(line[5:]) for line in text.splitlines() if line.startswith("data: {")])
        return json.loads(text)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def _join_events(events: list[Any]) -> Any:
    text, last = "", dict[str, Any]()
    for event in events:
        for choice in event.get("choices") or []:
            text += _text((choice.get("message") or choice.get("delta") or {}).get("content"))
            last |= {name: choice[name] for name in ("finish_reason",) if choice.get(name)}
    joined = {name: value for event in events for name, value in event.items() if value}
    return {**joined, "choices": [{**last, "message": {"content": text}}]}


def _upstream_status(error: Any) -> int:
    """The status in an error that a gateway answers with 200."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if re.fullmatch("[345][0-9][0-9]", code) else HTTPStatus.BAD_GATEWAY


def _is_about_rate(error: Any) -> bool:
    """Whether an error is about the rate of calls, whatever the status: some services send it with 200, 400 or 403."""
    named = [error.get(name) for name in ("code", "type", "status", "reason")] if isinstance(error, dict) else [error]
    squeezed = re.sub("[^a-z]", "", " ".join(map(str, named)).lower())
    return any(word in squeezed for word in ("ratelimit", "toomanyrequests", "throttl", "resourceexhausted"))


def _text(content: Any) -> str:
    """The text of a message, a string or a list of parts. A lone surrogate, which UTF-8 lacks, becomes `?`."""
    if isinstance(content, list):
        content = "".join(_text(part.get("text") if isinstance(part, dict) else part) for part in content)
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


def _other_text(message: dict[str, Any]) -> str:
    for name in ("reasoning_content", "reasoning"):
        if text := _text(message.get(name)):
            return text
    for call in message.get("tool_calls") or []:
        arguments = (call.get("function") or {}).get("arguments")
        return json.dumps(arguments) if isinstance(arguments, dict) else _text(arguments)
    return ""


def _read_usage(body: dict[str, Any], request: LlmRequest, text: str) -> Usage:
    usage = body.get("usage")
    counted = usage if isinstance(usage, dict) else {}
    tokens_in, tokens_out = _count(counted.get("prompt_tokens")), _count(counted.get("completion_tokens"))
    if tokens_in is None or tokens_out is None:
        model = str(body.get("model"))
        if model not in _usage_is_missing:
            _usage_is_missing.add(model)
            log.warning("usage_missing", model=plain(model), advice="the endpoint counts no tokens, so costs are estimated")
    details = counted.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(
        estimate_tokens(request.system + request.user) if tokens_in is None else tokens_in,
        cached or 0,
        estimate_tokens(text) if tokens_out is None else tokens_out,
    )


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**53 else None
