"""The HTTP server's limits, on real sockets: nobody can hold it by sending slowly, too much, or nothing."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from reaseq.settings import HttpSettings
from tests.fakes.serving import WebServer

PATIENCE_S = 60
BODY_LIMIT_BYTES = 1000
LARGE_BYTES = 2**26  # more than any socket buffer holds
LARGE = b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n"
TOO_SLOW = b"HTTP/1.1 408 "
REQUEST = b"GET /quick HTTP/1.1\r\nHost: h\r\n\r\n"

Connect = Callable[[], socket.socket]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the size of the body. `/large` answers with more than that; `/early` does not wait for the body."""
    if scope["type"] != "http":
        return
    size, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    body = b"x" * LARGE_BYTES if scope["path"] == "/large" else str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def serve() -> Iterator[Callable[..., Connect]]:
    """Starts a server with some limits changed, and returns a function that connects to it."""
    opened: list[socket.socket] = []
    servers: list[WebServer] = []

    def start(**limits: float) -> Connect:
        patient = HttpSettings(request_timeout_s=PATIENCE_S, response_timeout_s=PATIENCE_S)
        server = WebServer(echo, patient.model_copy(update=limits), BODY_LIMIT_BYTES)
        servers.append(server)

        def connect() -> socket.socket:
            opened.append(socket.create_connection(("127.0.0.1", server.port), PATIENCE_S))
            return opened[-1]

        return connect

    yield start
    for connection in opened:
        connection.close()
    for server in servers:
        server.close()


def read_to_end(connection: socket.socket) -> bytes:
    """Everything until the server closes or resets the connection."""
    received = b""
    try:
        while part := connection.recv(2**16):
            received += part
    except ConnectionError:
        pass
    return received


def ask(connection: socket.socket, request: bytes = REQUEST) -> bytes:
    """The beginning of the response to a request."""
    connection.sendall(request)
    return connection.recv(2**16)


def closed_count(reason: str) -> float:
    return REGISTRY.get_sample_value("reaseq_http_connections_closed_total", {"reason": reason}) or 0


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /quick HTTP/1.1\r\nHost: h\r\nX-Slow: ",
        b"POST /quick HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST /quick HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf",
        b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf",
        REQUEST + b"GET /quick HTTP/1.1\r\nX-Slow: ",
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "half a body, answered early", "half a second request"],
)
def test_incomplete_request_ends_the_connection(serve: Callable[..., Connect], sent: bytes) -> None:
    connection = serve(request_timeout_s=0.2)()
    connection.sendall(sent)

    assert b" 500 " not in read_to_end(connection)


def test_bytes_that_arrive_now_and_then_do_not_extend_the_time(serve: Callable[..., Connect]) -> None:
    connection = serve(request_timeout_s=0.3)()
    assert b" 200 " in ask(connection)

    def dribble() -> None:
        try:
            while not done.wait(0.02):
                connection.sendall(b"\r\n")  # allowed before a request, so it starts none
        except OSError:
            pass

    done = threading.Event()
    thread = threading.Thread(target=dribble)
    thread.start()
    end = read_to_end(connection)
    done.set()
    thread.join()

    assert end.startswith(TOO_SLOW)


def test_client_that_does_not_read_its_response_is_disconnected(serve: Callable[..., Connect]) -> None:
    before = closed_count("too_slow")
    connection = serve(response_timeout_s=0.2, request_timeout_s=1e6)()
    connection.sendall(LARGE)
    deadline_s = time.monotonic() + PATIENCE_S
    while closed_count("too_slow") == before and time.monotonic() < deadline_s:
        time.sleep(0.02)

    assert closed_count("too_slow") == before + 1
    assert len(read_to_end(connection)) < LARGE_BYTES


def test_client_that_has_read_its_response_has_to_send_its_next_request_in_time(serve: Callable[..., Connect]) -> None:
    connection = serve(response_timeout_s=1e6, request_timeout_s=0.3)()
    connection.sendall(LARGE)
    received = 0
    while received < LARGE_BYTES:
        received += len(connection.recv(2**20))
    connection.sendall(b"GET /half")

    assert TOO_SLOW in read_to_end(connection)


def test_new_connection_closes_the_one_that_has_waited_longest(serve: Callable[..., Connect]) -> None:
    connect = serve(connections_limit=3)
    idle = [connect() for _ in range(3)]
    for connection in idle:
        assert b" 200 " in ask(connection)  # so all three are open
    assert b" 200 " in ask(idle[0])  # and the second now waits longest

    assert b" 200 " in ask(connect())

    assert read_to_end(idle[1]) == b""
    assert b" 200 " in ask(idle[0]) and b" 200 " in ask(idle[2])


def test_flood_of_half_sent_requests_does_not_stop_others(serve: Callable[..., Connect]) -> None:
    connect = serve(connections_limit=20)
    for _ in range(200):
        connect().sendall(b"POST /quick HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf")

    assert b" 200 " in ask(connect())


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 4001 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 4001 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 800 + b"\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"trailer: x\r\n" * 400,
    ],
    ids=["target", "long header", "many headers", "trailer"],
)
@pytest.mark.parametrize("first", [b"", REQUEST], ids=["first request", "second request"])
def test_head_above_its_limit_gets_a_400(serve: Callable[..., Connect], head: bytes, first: bytes) -> None:
    connection = serve(head_limit_bytes=4000)()
    if first:
        ask(connection, first)
    connection.sendall(head)

    assert read_to_end(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "endless",
    [
        b"GET / HTTP/1.1\r\nX-Endless: ",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n",
    ],
    ids=["header", "chunk extension", "body"],
)
@pytest.mark.parametrize("first", [b"", REQUEST], ids=["first request", "second request"])
def test_endless_request_ends_the_connection(serve: Callable[..., Connect], endless: bytes, first: bytes) -> None:
    before = closed_count("too_large")
    connection = serve(head_limit_bytes=4000)()
    if first:
        ask(connection, first)
    try:
        connection.sendall(endless + b"x" * 10_000_000)
    except ConnectionError:
        pass

    read_to_end(connection)
    assert closed_count("too_large") == before + 1


def test_rest_of_an_answered_request_is_discarded_so_that_the_client_reads_the_answer(serve: Callable[..., Connect]) -> None:
    head = b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"
    connection = serve()()
    assert b" 200 " in ask(connection, head)

    assert b" 200 " in ask(connection, b"x" * 1_000_000 + REQUEST)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /quick HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        b"POST /quick HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /quick HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        b"CONNECT h:1 HTTP/1.1\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
    ],
)
def test_malformed_request_gets_a_small_400(serve: Callable[..., Connect], request_bytes: bytes) -> None:
    connection = serve()()
    connection.sendall(request_bytes)
    answer = read_to_end(connection)

    assert answer.startswith(b"HTTP/1.1 400 ") and len(answer) < 300


def test_pipelined_requests_are_answered_in_order(serve: Callable[..., Connect]) -> None:
    connection = serve()()
    posts = [b"POST /quick HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (n, b"x" * n) for n in range(3)]
    connection.sendall(b"".join(posts) + b"GET /quick HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")

    bodies = [part.rsplit(b"\r\n", 1)[-1] for part in read_to_end(connection).split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"0", b"1", b"2", b"0"]
