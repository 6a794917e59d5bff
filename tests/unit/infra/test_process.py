"""Background processes: what does not need one."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.process import http_get


class Healthy(BaseHTTPRequestHandler):
    """Answers every GET."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *arguments: object) -> None:
        pass


def test_health_check_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert http_get(f"http://127.0.0.1:{server.server_port}/readyz") == "ok"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
