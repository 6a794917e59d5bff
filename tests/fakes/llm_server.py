"""A fake of an OpenAI-compatible server on a real socket, which answers as it is told to."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER: dict[str, Any] = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": '{"a":1}'}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}},
}


@dataclass(frozen=True)
class Reply:
    """A response. Status 0 closes the connection without one."""

    status: int = 200
    payload: bytes = json.dumps(ANSWER).encode()
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0


def to_reply(body: Any, status: int = 200, **headers: str) -> Reply:
    """A reply with a JSON body."""
    return Reply(status, json.dumps(body).encode(), {name.replace("_", "-"): value for name, value in headers.items()})


def answer(**choice: Any) -> Reply:
    """A chat completion whose choice has other fields; None removes one."""
    changed = {name: value for name, value in {**ANSWER["choices"][0], **choice}.items() if value is not None}
    return to_reply({**ANSWER, "choices": [changed]})


class FakeServer(ThreadingHTTPServer):
    """Answers with the `replies` in order and repeats the last one, or with whatever `respond` makes of a request's body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[Reply] = [Reply()]
        self.respond: Callable[[dict[str, Any]], Reply] | None = None
        self.requests: list[tuple[dict[str, Any], str | None]] = []  # bodies and authorizations
        self.times: list[float] = []
        self.in_flight = self.max_in_flight = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Base URL for the client's settings."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def next_reply(self, body: dict[str, Any]) -> Reply:
        """The reply to a request, which has been recorded."""
        return self.respond(body) if self.respond else self.replies[min(len(self.requests), len(self.replies)) - 1]


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((body, self.headers["authorization"]))
            self.server.times.append(time.monotonic())
            reply = self.server.next_reply(body)
            self.server.in_flight += 1
            self.server.max_in_flight = max(self.server.max_in_flight, self.server.in_flight)
        time.sleep(reply.wait_s)
        with self.server.lock:
            self.server.in_flight -= 1
        if reply.status == 0:
            self.connection.close()
            return
        self.send_response(reply.status)
        for name, value in {"content-length": str(len(reply.payload)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(reply.payload)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running_server() -> Iterator[FakeServer]:
    """A server that runs until the context ends."""
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
