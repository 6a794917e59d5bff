"""The endpoint's client, against a stand-in server that fails in every way: bounded, retried, broken off, never believed."""

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
from reaseq.knowledge.llm.call import Completion, LlmRequest
from reaseq.knowledge.llm.endpoint import Endpoint
from reaseq.knowledge.llm.retries import CircuitBreaker, RetryPolicy
from reaseq.settings import LlmSettings

CALL = LlmRequest("demand", "system", '{"item":{}}', '{"type":"object"}')
CHOICE = {"message": {"content": '{"a":1}'}, "finish_reason": "stop"}
ANSWER = {
    "choices": [CHOICE],
    "usage": {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}},
}


def answer(**changes: Any) -> bytes:
    return json.dumps({**ANSWER, "choices": [CHOICE | changes]}).encode()


class StandInServer(ThreadingHTTPServer):
    """Gives the scripted replies in turn, the last one for ever; a reply is a status, a body, and seconds to wait."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, bytes, float]] = [(200, answer(), 0.0)]
        self.requests: list[tuple[dict[str, Any], str | None]] = []
        self.at_once = self.most_at_once = 0
        self.is_there = True
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: StandInServer

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models" and self.server.is_there else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((body, self.headers["authorization"]))
            place = min(len(self.server.requests), len(self.server.replies)) - 1
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        status, payload, wait_s = self.server.replies[place]
        time.sleep(wait_s)
        with self.server.lock:
            self.server.at_once -= 1
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
def server() -> Iterator[StandInServer]:
    server = StandInServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def endpoint(server: StandInServer, **changes: Any) -> Endpoint:
    quick = {"retry_first_s": 0.01, "retry_limit_s": 0.02, "breaker_open_s": 0.2, "answer_timeout_s": 2.0}
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return Endpoint(LlmSettings(base_url=url, model="m", **(quick | changes)))


async def ask(client: Endpoint) -> Completion:
    try:
        return await client.complete(CALL)
    finally:
        await client.close()


async def test_a_call_is_a_chat_completion_held_to_a_schema(server: StandInServer) -> None:
    client = endpoint(server, api_key=SecretStr("secret"), temperature=0.2, seed=3, extra_body={"top_k": 1})

    completion = await ask(client)

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
async def test_what_may_pass_is_tried_again(server: StandInServer, status: int, payload: bytes) -> None:
    fault = (status, payload, 0.0)
    server.replies = [fault, fault, (200, answer(), 0.0)]

    completion = await ask(endpoint(server))

    assert (completion.text, completion.usage.retries) == ('{"a":1}', 2)


async def test_an_answer_that_takes_too_long_is_tried_again(server: StandInServer) -> None:
    server.replies = [(200, answer(), 1.0), (200, answer(), 0.0)]

    assert (await ask(endpoint(server, answer_timeout_s=0.3))).usage.retries == 1


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
async def test_an_answer_without_use_becomes_a_reason_at_once(
    server: StandInServer, reply: tuple[int, bytes, float], reason: str
) -> None:
    server.replies = [reply]

    completion = await ask(endpoint(server, response_limit_bytes=100_000))

    assert completion.rejected == reason
    assert bool(completion.text) == (reason == "truncated")
    assert len(server.requests) == 1


async def test_a_call_that_fails_where_the_endpoint_is_there_is_refused(server: StandInServer) -> None:
    server.replies = [(500, b"", 0.0)]

    completion = await ask(endpoint(server, attempts_limit=3, breaker_failures=10))

    assert (completion.rejected, completion.usage.retries, len(server.requests)) == ("no_answer", 2, 3)


async def test_a_call_that_fails_where_the_endpoint_is_not_there_is_waited_for(server: StandInServer) -> None:
    server.replies, server.is_there = [(503, b"", 0.0)], False

    with pytest.raises(EndpointUnavailable):
        await ask(endpoint(server, attempts_limit=2, breaker_failures=10))


async def test_an_endpoint_that_answers_nobody_is_left_alone_and_tried_again_later(server: StandInServer) -> None:
    server.replies = [(500, b"", 0.0)] * 3 + [(200, answer(), 0.0)]
    client = endpoint(server, breaker_failures=3)
    with pytest.raises(EndpointUnavailable):
        await client.complete(CALL)
    with pytest.raises(EndpointUnavailable):
        await client.complete(CALL)
    assert len(server.requests) == 3, "while the breaker is open nobody is asked"
    await asyncio.sleep(0.25)

    assert (await ask(client)).text == '{"a":1}'


async def test_no_server_at_all_is_an_endpoint_that_is_unavailable(server: StandInServer) -> None:
    client = Endpoint(LlmSettings(base_url="http://127.0.0.1:1/v1", model="m", retry_first_s=0.0, breaker_failures=2))

    with pytest.raises(EndpointUnavailable):
        await ask(client)


async def test_no_more_calls_are_under_way_than_the_limit(server: StandInServer) -> None:
    server.replies = [(200, answer(), 0.05)]
    client = endpoint(server, concurrency_limit_calls=3)

    await asyncio.gather(*(client.complete(CALL) for _ in range(12)))
    await client.close()

    assert server.most_at_once == 3


def test_waits_double_with_jitter_up_to_a_limit() -> None:
    class Draw:
        def random(self) -> float:
            return self.value

        value = 0.0

    retries, draw = RetryPolicy(first_s=1.0, limit_s=5.0), Draw()
    assert [retries.wait_s(attempt, draw) for attempt in range(4)] == [0.5, 1.0, 2.0, 2.5]  # type: ignore[arg-type]
    draw.value = 1.0
    assert [retries.wait_s(attempt, draw) for attempt in range(4)] == [1.0, 2.0, 4.0, 5.0]  # type: ignore[arg-type]


def test_a_breaker_lets_one_call_try_and_its_outcome_decides() -> None:
    breaker = CircuitBreaker(failures=2, open_s=0.0)
    breaker.failed()
    assert breaker.admit() and not breaker.is_open
    breaker.failed()
    assert breaker.is_open
    assert breaker.admit() and not breaker.admit(), "one only"
    breaker.failed()
    assert breaker.is_open and breaker.admit()
    breaker.succeeded()
    assert not breaker.is_open and breaker.admit() and breaker.admit()
