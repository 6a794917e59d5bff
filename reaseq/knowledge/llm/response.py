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
COUNT_LIMIT_DIGITS = 12  # of tokens
THROTTLING = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, 529}  # 529: overloaded (Anthropic)
EVENT_DATA = re.compile(r"^data:[ ]?(.+?)\s*$", re.MULTILINE)
BROKEN_OFF = {"error", "abort", "aborted", "cancelled"}  # reasons to finish that are the server's own
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
    """The completion in a response's body; None if it is not a chat completion, or one that the server broke off.

    Tokens are estimated if the endpoint does not count them. Accepts content as parts and, where the content is empty, the
    text that some servers put into the reasoning or into a tool call.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"] or {}
        text = _text(message.get("content"))
        finished = str(choice.get("finish_reason") or "stop").lower()
        if finished in BROKEN_OFF:
            return None
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
        if text.startswith(("{", "[")):
            return json.loads(text)
        data = (match[1] for match in EVENT_DATA.finditer(text))
        return _join_events([json.loads(event) for event in data if event != "[DONE]"])
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def _join_events(events: list[Any]) -> Any:
    """The chat completion that the events of a stream amount to, or the error that one of them is; None if they are none."""
    if error := next((event for event in events if event.get("error")), None):
        return error
    if not any(event.get("choices") for event in events):
        return None
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
    """The text of a message: a string, a list of parts, or the object that the string would be.

    A lone surrogate, which UTF-8 lacks, becomes `?`.
    """
    if isinstance(content, list):
        content = "".join(_text(_part_text(part) if isinstance(part, dict) else part) for part in content)
    if isinstance(content, dict):
        content = json.dumps(content)
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


def _part_text(part: dict[str, Any]) -> Any:
    text = part.get("text")
    return text.get("value") if isinstance(text, dict) else text


def _other_text(message: dict[str, Any]) -> str:
    for name in ("reasoning_content", "reasoning"):
        if text := _text(message.get(name)):
            return text
    calls = [call.get("function") for call in message.get("tool_calls") or []] or [message.get("function_call")]
    return _text((calls[0] or {}).get("arguments"))


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
        cached or 0 if tokens_in is None else min(cached or 0, tokens_in),
        estimate_tokens(text) if tokens_out is None else tokens_out,
    )


def _count(value: Any) -> int | None:
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and len(value) < COUNT_LIMIT_DIGITS else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < 10**COUNT_LIMIT_DIGITS else None
