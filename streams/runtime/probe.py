"""What a worker tells its surroundings over HTTP: metrics, and whether it is alive and ready."""

import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streams.runtime.watchdog import Stall


def serve_probe(host: str, port: int, stalls: Callable[[], Sequence[Stall]]) -> ThreadingHTTPServer:
    """Serve `/metrics`, `/healthz` and `/readyz` from a thread; port 0 takes a free one (see `server_port`).

    Not ready: something stands still. Not alive: it stands still though nothing is under way, and only a new process helps.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path:
                case "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
                case "/readyz":
                    self._tell(stalls())
                case "/healthz":
                    self._tell([stall for stall in stalls() if stall.dead])
                case _:
                    self._answer(404, "text/plain", b"not found\n")

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds: they are not worth a line."""

        def _tell(self, trouble: Sequence[Stall]) -> None:
            self._answer(503 if trouble else 200, "text/plain", "".join(f"{stall}\n" for stall in trouble).encode() or b"ok\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="probe", daemon=True).start()
    return server
