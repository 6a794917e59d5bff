"""The HTTP endpoints of a worker: metrics, liveness and readiness."""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from reaseq.settings import HttpSettings
from streams.runtime.http_server import BoundedConfig


class Fault(Protocol):
    """Why a worker is not ready, as text."""

    @property
    def consumer_stuck(self) -> bool:
        """Whether only a restart helps."""
        ...


def serve_probe(
    host: str, port: int, limits: HttpSettings, faults: Callable[[], Sequence[Fault]], failure: Callable[[], str | None]
) -> int:
    """Serve `/metrics`, `/healthz` and `/readyz` from a thread. Returns the port; port 0 picks a free one.

    A worker is not ready while it has a fault: a topic is stalled, or the store may evict rows. It is not alive if only a
    restart helps: after a failure, or if a topic is stalled with no batch in flight.
    """
    config = BoundedConfig(_build_app(faults, failure), host, port, limits)
    listener = config.bind_socket()
    listener.listen()  # so that a client that connects before the thread has started waits for it
    threading.Thread(target=uvicorn.Server(config).run, args=([listener],), name="probe", daemon=True).start()
    bound: int = listener.getsockname()[1]
    return bound


def _build_app(faults: Callable[[], Sequence[Fault]], failure: Callable[[], str | None]) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/readyz")
    async def readiness() -> Response:
        return _report([failure(), *faults()])

    @app.get("/healthz")
    async def health() -> Response:
        return _report([failure(), *(fault for fault in faults() if fault.consumer_stuck)])

    return app


def _report(problems: Sequence[Fault | str | None]) -> Response:
    body = "".join(f"{problem}\n" for problem in problems if problem)
    return PlainTextResponse(body or "ok\n", 503 if body else 200)
