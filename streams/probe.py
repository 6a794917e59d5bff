"""What a worker tells its surroundings over HTTP: metrics, and whether it is alive and ready."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


def serve_probe(host: str, port: int) -> ThreadingHTTPServer:
    """Serve `/metrics`, `/healthz` and `/readyz` from a thread; port 0 takes a free one (see `server_port`)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif self.path in ("/healthz", "/readyz"):  # a worker serves this once it is ready
                self._answer(200, "text/plain", b"ok\n")
            else:
                self._answer(404, "text/plain", b"not found\n")

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds: they are not worth a line."""

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="probe", daemon=True).start()
    return server
