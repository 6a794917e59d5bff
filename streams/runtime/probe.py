"""The HTTP endpoints of a worker: metrics, liveness and readiness."""

import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


class Fault(Protocol):
    """Why a worker is not ready, as text."""

    @property
    def consumer_stuck(self) -> bool:
        """Whether only a restart helps."""
        ...


def serve_probe(
    host: str, port: int, faults: Callable[[], Sequence[Fault]], failure: Callable[[], str | None]
) -> ThreadingHTTPServer:
    """Serve `/metrics`, `/healthz` and `/readyz` from a thread. Port 0 picks a free port (see `server_port`).

    A worker is not ready while it has a fault: a topic is stalled, or the store may evict rows. It is not alive if only a
    restart helps: after a failure, or if a topic is stalled with no batch in flight.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path:
                case "/metrics":
                    self._respond(200, CONTENT_TYPE_LATEST, generate_latest())
                case "/readyz":
                    self._respond_health([failure(), *faults()])
                case "/healthz":
                    self._respond_health([failure(), *(fault for fault in faults() if fault.consumer_stuck)])
                case _:
                    self._respond(404, "text/plain", b"not found\n")

        def log_message(self, format: str, *args: object) -> None:
            """No access log: probes arrive every few seconds."""

        def _respond_health(self, problems: Sequence[Fault | str | None]) -> None:
            body = "".join(f"{problem}\n" for problem in problems if problem).encode()
            self._respond(503 if body else 200, "text/plain", body or b"ok\n")

        def _respond(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="probe", daemon=True).start()
    return server
