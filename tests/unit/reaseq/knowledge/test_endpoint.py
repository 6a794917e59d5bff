"""The endpoint client against a faulty HTTP server: limits, retries, circuit breaker and validation."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from reaseq.errors import EndpointUnavailable
from reaseq.knowledge.llm.endpoint import Endpoint
from reaseq.knowledge.llm.request import Completion, LlmRequest
from reaseq.knowledge.llm.retries import CircuitBreaker
from reaseq.settings import LlmSettings

REQUEST = LlmRequest("demand", "system", '{"item":{}}', '{"type":"object"}')
CHOICE = {"message": {"content": '{"a":1}'}, "finish_reason": "stop"}
ANSWER = {
    "choices": [CHOICE],
    "usage": {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}},
}


def answer(**changes: Any) -> bytes:
    return json.dumps({**ANSWER, "choices": [CHOICE | changes]}).encode()


class FakeServer(ThreadingHTTPServer):
    """Sends scripted replies in order and repeats the last one. A reply is status (0: disconnect), body, delay in s."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, bytes, float]] = [(200, answer(), 0.0)]
        self.requests: list[tuple[dict[str, Any], str | None]] = []
        self.in_flight = self.max_in_flight = 0
        self.is_healthy = True
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models" and self.server.is_healthy else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((body, self.headers["authorization"]))
            index = min(len(self.server.requests), len(self.server.replies)) - 1
            self.server.in_flight += 1
            self.server.max_in_flight = max(self.server.max_in_flight, self.server.in_flight)
        status, payload, wait_s = self.server.replies[index]
        time.sleep(wait_s)
        with self.server.lock:
            self.server.in_flight -= 1
        if status == 0:
            self.connection.close()
            return
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        try:
            self.wfile.write(payload)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def endpoint(server: FakeServer, **changes: Any) -> Endpoint:
    quick = {"retry_first_s": 0.01, "retry_limit_s": 0.02, "breaker_open_s": 0.2, "answer_timeout_s": 2.0}
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return Endpoint(LlmSettings(base_url=url, model="m", **(quick | changes)))


async def complete(client: Endpoint) -> Completion:
    try:
        return await client.complete(REQUEST)
    finally:
        await client.close()


async def test_request_is_a_chat_completion_with_a_schema(server: FakeServer) -> None:
    client = endpoint(server, api_key=SecretStr("secret"), temperature=0.2, seed=3, extra_body={"top_k": 1})

    completion = await complete(client)

    (body, authorization) = server.requests[0]
    assert authorization == "Bearer secret"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert (body["model"], body["temperature"], body["seed"], body["top_k"]) == ("m", 0.2, 3, 1)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    usage = completion.usage
    assert (completion.text, usage.tokens_in, usage.tokens_cached, usage.tokens_out, usage.retries) == ('{"a":1}', 10, 8, 3, 0)
    assert usage.seconds > 0


@pytest.mark.parametrize(
    ("status", "payload"),
    [
        *((500, b""), (503, b"busy"), (429, b""), (0, b""), (401, b"")),
        *((200, garbage) for garbage in (b"<html>", b"{}", b"[1]", b'{"choices": [], "usage": {}}', b"\xff\xfe")),
        (200, answer(message={"content": "\ud83d"})),
    ],
)
async def test_transient_faults_are_retried(server: FakeServer, status: int, payload: bytes) -> None:
    fault = (status, payload, 0.0)
    server.replies = [fault, fault, (200, answer(), 0.0)]

    completion = await complete(endpoint(server))

    assert (completion.text, completion.usage.retries) == ('{"a":1}', 2)


async def test_timeout_is_retried(server: FakeServer) -> None:
    server.replies = [(200, answer(), 1.0), (200, answer(), 0.0)]

    assert (await complete(endpoint(server, answer_timeout_s=0.3))).usage.retries == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((400, b"too long", 0.0), "http_400"),
        ((422, b"", 0.0), "http_422"),
        ((200, answer(finish_reason="length"), 0.0), "truncated"),
        ((200, answer(message={"content": ""}), 0.0), "empty_answer"),
        ((200, answer(message={"content": None}), 0.0), "empty_answer"),
        ((200, answer(message={"content": "x" * 300_000}), 0.0), "too_large"),
    ],
)
async def test_unusable_answer_is_rejected_without_retry(
    server: FakeServer, reply: tuple[int, bytes, float], reason: str
) -> None:
    server.replies = [reply]

    completion = await complete(endpoint(server, response_limit_bytes=100_000))

    assert completion.rejected == reason
    assert bool(completion.text) == (reason == "truncated")
    assert len(server.requests) == 1


async def test_request_is_rejected_if_it_keeps_failing_on_a_healthy_endpoint(server: FakeServer) -> None:
    server.replies = [(500, b"", 0.0)]

    completion = await complete(endpoint(server, attempts_limit=3, breaker_failures=10))

    assert (completion.rejected, completion.usage.retries, len(server.requests)) == ("no_answer", 2, 3)


async def test_unhealthy_endpoint_is_unavailable(server: FakeServer) -> None:
    server.replies, server.is_healthy = [(503, b"", 0.0)], False

    with pytest.raises(EndpointUnavailable):
        await complete(endpoint(server, attempts_limit=2, breaker_failures=10))


async def test_circuit_breaker_blocks_calls_then_tries_again(server: FakeServer) -> None:
    server.replies = [(500, b"", 0.0)] * 3 + [(200, answer(), 0.0)]
    client = endpoint(server, breaker_failures=3)
    with pytest.raises(EndpointUnavailable):
        await client.complete(REQUEST)
    with pytest.raises(EndpointUnavailable):
        await client.complete(REQUEST)
    assert len(server.requests) == 3, "an open breaker must block calls"
    await asyncio.sleep(0.25)

    assert (await complete(client)).text == '{"a":1}'


async def test_missing_server_is_unavailable(server: FakeServer) -> None:
    client = Endpoint(LlmSettings(base_url="http://127.0.0.1:1/v1", model="m", retry_first_s=0.0, breaker_failures=2))

    with pytest.raises(EndpointUnavailable):
        await complete(client)


async def test_concurrency_is_limited(server: FakeServer) -> None:
    server.replies = [(200, answer(), 0.05)]
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
