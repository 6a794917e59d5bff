"""The endpoint client against a faulty HTTP server: limits, retries, rate limits, refusals and the circuit breaker."""

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from reaseq.backoff import Backoff
from reaseq.errors import EndpointUnavailable
from reaseq.knowledge.llm.adaptive_rate import AdaptiveRate
from reaseq.knowledge.llm.endpoint import CONTROL_USER, Endpoint
from reaseq.knowledge.llm.request import Completion, LlmRequest
from reaseq.knowledge.llm.response import retry_after_s
from reaseq.knowledge.llm.retries import CircuitBreaker
from reaseq.settings import LlmSettings
from tests.fakes.llm_server import ANSWER, FakeServer, Reply, answer, running_server, to_reply

REQUEST = LlmRequest("demand", "system", '{"item":{}}', '{"type":"object"}')
GONE = Reply(status=0)

# What an endpoint answers to everybody, and the words of it that an operator needs.
REFUSALS = {
    "unsupported parameter": (to_reply({"error": {"message": "Unsupported parameter: 'max_tokens'"}}, 400), "max_tokens"),
    "no such format": (to_reply({"error": {"message": "json_schema is unavailable now"}}, 400), "json_schema is unavailable"),
    "wrong model": (to_reply({"error": {"message": "x is not a valid model ID", "code": 400}}, 400), "not a valid model ID"),
    "wrong key": (to_reply({"error": {"message": "Incorrect API key provided: secret"}}, 401), "Incorrect API key provided: …"),
    "no balance": (to_reply({"error": {"message": "Insufficient Balance"}}, 402), "Insufficient Balance"),
    "country": (to_reply({"error": "Country not supported"}, 403), "Country not supported"),
    "unknown model": (to_reply([{"error": {"message": "The model does not exist."}}], 404), "does not exist"),
    "method": (Reply(405, b"405 Not Allowed"), "405 Not Allowed"),
    "gone": (Reply(410, b""), "HTTP 410"),
    "extra inputs": (to_reply({"detail": "Extra inputs are not permitted"}, 422), "Extra inputs"),
    "validation": (to_reply({"detail": [{"loc": ["body"], "msg": "field required"}]}, 422), "field required"),
    "legal": (Reply(451, "<html>Not here \u202e</html>".encode()), "\\u202e"),
    "redirect": (to_reply({}, 307, location="https://elsewhere/v1"), "redirects to https://elsewhere/v1"),
    "moved": (to_reply({}, 301, location="/v2"), "redirects to /v2"),
    "gateway's 200": (to_reply({"error": {"message": "no allowed providers", "code": 404}}), "no allowed providers"),
}
each_refusal = pytest.mark.parametrize(("refusal", "words"), REFUSALS.values(), ids=REFUSALS)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running_server() as server:
        yield server


def endpoint(server: FakeServer, **changes: Any) -> Endpoint:
    quick = {"retry_first_s": 0.01, "retry_limit_s": 0.02, "breaker_open_s": 0.2, "answer_timeout_s": 20.0}
    return Endpoint(LlmSettings(base_url=server.url, model="m", **(quick | changes)))


async def complete(client: Endpoint, request: LlmRequest = REQUEST) -> Completion:
    try:
        return await client.complete(request)
    finally:
        await client.close()


def only_the_item(reply: Reply) -> Any:
    """A server that answers the control request, and everything else with `reply`."""
    return lambda body: Reply() if body["messages"][1]["content"] == CONTROL_USER else reply


async def test_request_is_a_chat_completion_with_a_schema(server: FakeServer) -> None:
    extra = {"top_k": 1, "max_tokens": None, "max_completion_tokens": 9}
    client = endpoint(server, api_key=SecretStr("secret"), temperature=0.2, seed=3, extra_body=extra)

    completion = await complete(client)

    (body, authorization) = server.requests[0]
    assert authorization == "Bearer secret"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert (body["model"], body["temperature"], body["seed"], body["top_k"]) == ("m", 0.2, 3, 1)
    assert "max_tokens" not in body and body["max_completion_tokens"] == 9
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    usage = completion.usage
    assert (completion.text, usage.tokens_in, usage.tokens_cached, usage.tokens_out, usage.retries) == ('{"a":1}', 10, 8, 3, 0)
    assert usage.seconds > 0


@pytest.mark.parametrize(
    "fault",
    [
        *(Reply(500, b""), Reply(502, b"<html>"), Reply(408, b""), Reply(425, b""), GONE),
        *(Reply(200, garbage) for garbage in (b"", b"<html>", b"{}", b"[1]", b'{"choices": [], "usage": {}}', b"\xff\xfe")),
        answer(message={"content": "", "tool_calls": ["x"]}),
        answer(message="hello"),
        Reply(200, b"[" * 100_000),
        to_reply({"error": {"message": "upstream overloaded", "code": 502}}),
        to_reply({"error": "internal"}),
        Reply(204, b""),
        *(answer(finish_reason=reason, message={"content": '{"a"'}) for reason in ("error", "abort")),
        *(
            Reply(200, b"data: " + event + b"\n\ndata: [DONE]\n\n")
            for event in (b'{"error": {"message": "busy"}}', b"{", b"{}")
        ),
        Reply(200, b"data: [DONE]\n\n"),
        Reply(200, b"{}", {"content-encoding": "gzip"}),
        Reply(200, b"{}", {"x": "y" * 100_000}),
    ],
)
async def test_transient_faults_are_retried(server: FakeServer, fault: Reply) -> None:
    server.replies = [fault, fault, Reply()]

    completion = await complete(endpoint(server))

    assert (completion.text, completion.usage.retries) == ('{"a":1}', 2)


async def test_timeout_is_retried(server: FakeServer) -> None:
    server.replies = [Reply(wait_s=1.0), Reply()]

    assert (await complete(endpoint(server, answer_timeout_s=0.3))).usage.retries == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(finish_reason="length"), "truncated"),
        (answer(finish_reason="length", message={"content": ""}), "truncated"),
        (answer(finish_reason="MAX_TOKENS"), "truncated"),
        (answer(finish_reason="content_filter", message={"content": ""}), "content_filter"),
        (answer(message={"content": None, "refusal": "I cannot"}), "refusal"),
        (answer(message={"content": ""}), "empty_answer"),
        (answer(message={"content": None}), "empty_answer"),
    ],
)
async def test_unusable_answer_is_rejected_without_retry(server: FakeServer, reply: Reply, reason: str) -> None:
    server.replies = [reply]

    completion = await complete(endpoint(server))

    assert completion.rejected == reason
    assert len(server.requests) == 1


async def test_answer_that_is_too_large_is_the_items_fault_only_if_others_are_not(server: FakeServer) -> None:
    server.respond = only_the_item(Reply(200, b" " * 200_000))
    assert (await complete(endpoint(server, response_limit_bytes=100_000))).rejected == "too_large"

    server.respond, server.replies = None, [Reply(200, b" " * 200_000)]
    with pytest.raises(EndpointUnavailable, match="more than 100000 bytes"):
        await complete(endpoint(server, response_limit_bytes=100_000))


async def test_error_that_is_too_large_is_still_an_error(server: FakeServer) -> None:
    server.replies = [Reply(502, b"<html>" + b" " * 200_000), Reply()]

    assert (await complete(endpoint(server, response_limit_bytes=100_000))).usage.retries == 1


@pytest.mark.parametrize("padding", range(240, 300, 7))
async def test_key_that_the_server_quotes_is_in_no_error(server: FakeServer, padding: int) -> None:
    """Not even the beginning of it, where the quotation is cut."""
    server.replies = [to_reply({"error": {"message": f"{'x' * padding} sk-0123456789-s3cret-9876543210"}}, 401)]

    with capture_logs() as logs, pytest.raises(EndpointUnavailable) as raised:
        await complete(endpoint(server, api_key=SecretStr("sk-0123456789-s3cret-9876543210")))
    assert "sk-0" not in f"{raised.value} {logs}"


@pytest.mark.parametrize("status", [400, 403, 413, 422])
async def test_refusal_of_one_item_is_the_items_own(server: FakeServer, status: int) -> None:
    server.respond = only_the_item(to_reply({"error": {"message": "maximum context length"}}, status))

    completion = await complete(endpoint(server))

    assert completion.rejected == f"http_{status}"
    assert len(server.requests) == 2
    control, item = server.requests[1][0], server.requests[0][0]
    assert control["max_tokens"] < item["max_tokens"]
    assert (control["messages"][0], control["response_format"]) == (item["messages"][0], item["response_format"])


async def test_item_is_rejected_if_it_keeps_failing_while_the_endpoint_answers_others(server: FakeServer) -> None:
    server.respond = only_the_item(Reply(500, b""))

    completion = await complete(endpoint(server, attempts_limit=3, breaker_failures=10))

    assert (completion.rejected, completion.usage.retries, len(server.requests)) == ("no_answer", 2, 4)


async def test_endpoint_that_fails_for_everybody_is_unavailable(server: FakeServer) -> None:
    server.replies = [Reply(500, b"")]

    with pytest.raises(EndpointUnavailable):
        await complete(endpoint(server, attempts_limit=2, breaker_failures=10))


@each_refusal
async def test_refusal_of_everybody_stops_all_calls_and_is_said_once(server: FakeServer, refusal: Reply, words: str) -> None:
    server.replies = [refusal]
    client = endpoint(server, breaker_open_s=60.0, api_key=SecretStr("secret"))

    with capture_logs() as logs:
        outcomes = await asyncio.gather(*(client.complete(REQUEST) for _ in range(20)), return_exceptions=True)
        with pytest.raises(EndpointUnavailable):
            await client.complete(REQUEST)
    await client.close()

    assert all(isinstance(outcome, EndpointUnavailable) for outcome in outcomes)
    assert len(server.requests) == 21, "the calls in flight, and one control"
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert warning["event"] == "endpoint_refuses" and words in warning["answer"] and "secret" not in warning["answer"]
    assert words in str(outcomes[0])


@each_refusal
async def test_calls_go_on_by_themselves_when_a_refusal_ends(server: FakeServer, refusal: Reply, words: str) -> None:
    server.replies = [refusal] * 4 + [Reply()]
    client = endpoint(server, breaker_open_s=0.05)

    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(EndpointUnavailable):
                await client.complete(REQUEST)
            await asyncio.sleep(0.06)

    assert [line["event"] for line in logs] == ["endpoint_refuses"]
    assert (await complete(client)).text == '{"a":1}'


@pytest.mark.parametrize(
    "refusal",
    [
        *(Reply(status, b"busy") for status in (429, 503, 529)),
        to_reply({"error": {"message": "slow down", "code": 429}}),
        to_reply({"error": {"message": "slow down", "code": "429"}}),
        to_reply({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
        to_reply({"error": "Rate limit reached"}, 400),
        to_reply({"error": {"message": "slow down", "type": "ThrottlingException"}}, 400),
        to_reply({"error": {"code": 403, "status": "RESOURCE_EXHAUSTED"}}, 403),
    ],
)
async def test_throttling_costs_no_attempt(server: FakeServer, refusal: Reply) -> None:
    server.replies = [refusal] * 12 + [Reply()]

    completion = await complete(endpoint(server, attempts_limit=1, breaker_failures=2))

    assert (completion.text, completion.usage.retries) == ('{"a":1}', 0)


@pytest.mark.parametrize("name", ["retry_after", "retry_after_ms", "date"])
async def test_retry_after_is_honored_by_all_calls(server: FakeServer, name: str) -> None:
    headers = {
        "retry_after": {"retry_after": "1"},
        "retry_after_ms": {"retry_after_ms": "1000"},
        "date": {"retry_after": format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)},
    }[name]
    server.replies = [to_reply({"error": {"message": "slow down"}}, 429, **headers), Reply()]
    client = endpoint(server)

    first = asyncio.create_task(client.complete(REQUEST))
    await asyncio.sleep(0.2)
    await asyncio.gather(first, *(client.complete(REQUEST) for _ in range(3)))
    await client.close()

    assert server.times[1] - server.times[0] >= 0.95


async def test_endpoint_that_asks_to_wait_for_long_is_unavailable_until_then(server: FakeServer) -> None:
    server.replies = [to_reply({"error": {"message": "daily quota"}}, 429, retry_after="3600")]
    client = endpoint(server)

    with pytest.raises(EndpointUnavailable, match="daily quota"):
        await client.complete(REQUEST)
    with pytest.raises(EndpointUnavailable, match="again in 3600 s"):
        await complete(client)

    assert len(server.requests) == 1


async def test_endpoint_that_throttles_for_long_is_unavailable(server: FakeServer) -> None:
    server.replies = [to_reply({"error": {"message": "You exceeded your current quota"}}, 429)]

    with pytest.raises(EndpointUnavailable, match="exceeded your current quota"):
        await complete(endpoint(server, answer_timeout_s=0.2))


async def test_rate_settles_below_the_endpoints_limit(server: FakeServer) -> None:
    """A sliding window of 10 calls in 0.25 s. Every call is answered, and few are refused after the first burst."""
    accepted: list[float] = []
    refused: list[float] = []

    def respond(body: dict[str, Any]) -> Reply:
        now = time.monotonic()
        is_over = sum(now - earlier < 0.25 for earlier in accepted) >= 10
        (refused if is_over else accepted).append(now)
        return Reply(429, b"") if is_over else Reply()

    server.respond = respond
    client = endpoint(server, concurrency_limit_calls=32)

    completions = await asyncio.gather(*(client.complete(REQUEST) for _ in range(150)))
    await client.close()

    assert all(completion.text for completion in completions)
    settled = accepted[50]
    assert sum(at > settled for at in refused) <= 0.1 * 100
    assert 100 / (accepted[-1] - settled) > 10, "calls per second, of 40 that the endpoint accepts"


async def test_rate_is_unlimited_until_a_refusal_and_grows_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    rate = AdaptiveRate(Backoff(0.0, 0.0))
    for _ in range(20):
        sent_at = await rate.wait()
    for _ in range(10):
        rate.refused(sent_at, None)

    assert rate.per_s == pytest.approx(0.8 * 10), "of the 10 calls that were accepted within a second"
    clock[0] += 30.0
    assert rate.per_s == pytest.approx(2 * 0.8 * 10)
    clock[0] += 36_000.0
    assert rate.per_s > 1e9


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "2", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


DIALECTS = {
    "parts": answer(message={"content": [{"type": "text", "text": '{"a"'}, {"type": "text", "text": ":1}"}]}),
    "no finish_reason": answer(finish_reason=None),
    "reasoning_content": answer(message={"content": None, "reasoning_content": '{"a":1}'}),
    "reasoning": answer(message={"content": "", "reasoning": '{"a":1}'}),
    "tool call": answer(message={"content": None, "tool_calls": [{"function": {"name": "x", "arguments": '{"a":1}'}}]}),
    "tool call with an object": answer(message={"tool_calls": [{"function": {"name": "x", "arguments": {"a": 1}}}]}),
    "legacy function call": answer(message={"content": None, "function_call": {"name": "x", "arguments": '{"a":1}'}}),
    "object as content": answer(message={"content": {"a": 1}}),
    "parts with values": answer(message={"content": [{"type": "text", "text": {"value": '{"a":1}'}}]}),
    "tokens as text": to_reply({**ANSWER, "usage": {"prompt_tokens": "10", "completion_tokens": "3"}}),
    "duplicate names": Reply(payload=b'{"choices": [], ' + json.dumps(ANSWER).encode()[1:]),
    "compressed": Reply(payload=gzip.compress(json.dumps(ANSWER).encode()), headers={"content-encoding": "gzip"}),
    "HTML by its content type": replace(Reply(), headers={"content-type": "text/html; charset=klingon"}),
    "blank lines": Reply(payload=b"\n \n" + json.dumps(ANSWER).encode()),
    "event stream with comments": Reply(
        payload=b": PROCESSING\n\nevent: message\nid: 1\ndata:" + json.dumps(ANSWER).encode() + b"\r\n\r\ndata: [DONE]\n\n"
    ),
    "no content": answer(message={"reasoning_content": '{"a":1}'}),
    "byte-order mark": replace(Reply(), payload=b"\xef\xbb\xbf" + json.dumps(ANSWER).encode()),
    "null error": to_reply({**ANSWER, "error": None}),
    "event stream": Reply(payload=b"data: " + json.dumps(ANSWER).encode() + b"\n\ndata: [DONE]\n\n"),
    "deltas": Reply(
        payload=b'data: {"choices":[{"delta":{"content":"{\\"a\\""}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":":1}"},"finish_reason":"stop"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":3}}\n\ndata: [DONE]\n'
    ),
}


@pytest.mark.parametrize("reply", DIALECTS.values(), ids=DIALECTS)
async def test_right_answer_in_another_dress_is_read(server: FakeServer, reply: Reply) -> None:
    server.replies = [reply]

    completion = await complete(endpoint(server, attempts_limit=1))

    assert (completion.text.replace(" ", ""), completion.rejected) == ('{"a":1}', "")
    assert (completion.usage.tokens_in, completion.usage.tokens_out) == (10, 3)


@pytest.mark.parametrize(
    "usage", [None, "absent", {}, [], {"prompt_tokens": True, "completion_tokens": "9" * 40}, {"total_tokens": 9}]
)
async def test_missing_usage_is_estimated_and_said_once(server: FakeServer, usage: Any) -> None:
    model = f"counts nothing: {usage}"
    body = {**ANSWER, "model": model, "usage": usage}
    if usage == "absent":
        del body["usage"]
    server.replies = [to_reply(body)]
    client = endpoint(server)

    with capture_logs() as logs:
        completion = await client.complete(replace(REQUEST, system="s" * 389))
        await complete(client)

    assert (completion.text, completion.usage.tokens_in, completion.usage.tokens_out) == ('{"a":1}', 100, 2)
    assert [line["event"] for line in logs] == ["usage_missing"]


async def test_text_that_utf8_cannot_hold_is_replaced(server: FakeServer) -> None:
    server.replies = [answer(message={"content": "soap \ud83d"})]

    assert (await complete(endpoint(server))).text == "soap ?"


async def test_circuit_breaker_blocks_calls_then_tries_again(server: FakeServer) -> None:
    server.replies = [Reply(500, b"")] * 3 + [Reply()]
    client = endpoint(server, breaker_failures=3)
    with pytest.raises(EndpointUnavailable):
        await client.complete(REQUEST)
    with pytest.raises(EndpointUnavailable):
        await client.complete(REQUEST)
    assert len(server.requests) == 3, "an open breaker must block calls"
    await asyncio.sleep(0.25)

    assert (await complete(client)).text == '{"a":1}'


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", ""])
async def test_missing_server_is_unavailable(url: str) -> None:
    client = Endpoint(LlmSettings(base_url=url, model="m", retry_first_s=0.0, breaker_failures=2))

    with pytest.raises(EndpointUnavailable):
        await complete(client)


async def test_concurrency_is_limited(server: FakeServer) -> None:
    server.replies = [Reply(wait_s=0.05)]
    client = endpoint(server, concurrency_limit_calls=3)

    await asyncio.gather(*(client.complete(REQUEST) for _ in range(12)))
    await client.close()

    assert server.max_in_flight == 3


def test_circuit_breaker_admits_one_trial_call_whose_outcome_decides() -> None:
    breaker = CircuitBreaker(failures=2, open_s=0.0)
    breaker.failed()
    assert breaker.admit() and not breaker.is_open
    breaker.failed()
    assert breaker.is_open
    assert breaker.admit() and not breaker.admit(), "only one trial call"
    breaker.failed()
    assert breaker.is_open and breaker.admit()
    breaker.succeeded()
    assert not breaker.is_open and breaker.admit() and breaker.admit()
