"""A worker's probe endpoints."""

import socket
import threading
from collections.abc import Sequence

import httpx
import pytest

from reaseq.settings import HttpSettings
from streams.runtime.probe import serve_probe
from streams.runtime.watchdog import Stall

WAITING = Stall("events", 90.0, ("redis",), in_flight=1)
STUCK = Stall("items", 90.0, (), in_flight=0)


Stalls = Sequence[Stall]


@pytest.mark.parametrize(
    ("stalls", "failure", "ready", "alive"),
    [([], None, 200, 200), ([WAITING], None, 503, 200), ([WAITING, STUCK], None, 503, 503), ([], "a reader failed", 503, 503)],
)
def test_worker_is_ready_without_stalls_and_alive_unless_only_a_restart_helps(
    stalls: Stalls, failure: str | None, ready: int, alive: int
) -> None:
    port = serve(stalls, failure)

    assert (get(port, "/readyz").status_code, get(port, "/healthz").status_code) == (ready, alive)
    assert get(port, "/readyz").text.splitlines() == ([failure] if failure else [str(stall) for stall in stalls] or ["ok"])


def test_metrics_are_in_the_format_of_prometheus() -> None:
    response = get(serve(), "/metrics")

    assert response.headers["Content-Type"].startswith("text/plain; version=") and "reaseq_records" in response.text


@pytest.mark.parametrize("path", ["/no/such/path", "/docs", "/openapi.json"])
def test_other_paths_are_not_found(path: str) -> None:
    assert get(serve(), path).status_code == 404


def test_connections_cost_no_threads_and_do_not_keep_the_probe_from_answering() -> None:
    port = serve(connections_limit=50)
    get(port, "/healthz")
    before = threading.active_count()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]

    assert get(port, "/healthz").status_code == 200
    assert threading.active_count() <= before
    for connection in connections:
        connection.close()


def serve(stalls: Stalls = (), failure: str | None = None, **limits: int) -> int:
    return serve_probe("127.0.0.1", 0, HttpSettings().model_copy(update=limits), lambda: stalls, lambda: failure)


def get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=60, trust_env=False)
