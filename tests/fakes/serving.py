"""Shared by the tests of the ranking service: the random ranker behind a user cache, tasks for it, and a real web server."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpx
import uvicorn

from reaseq.settings import HttpSettings
from serving.degradation import DegradingRanker, RankingTask
from serving.user_cache import UserCache
from streams.runtime.http_server import BoundedConfig
from tests.fakes.catalog import NOW_MS
from tests.fakes.ranker import Store, engine

CANDIDATES = [f"i{number}" for number in range(1, 30)]


def build_ranker(store: Store, clock: Callable[[], float] = time.monotonic) -> DegradingRanker:
    """The random ranker, reading users from `store` through a cache of two users."""
    return DegradingRanker(engine(), UserCache(store, limit_users=2, pause_s=5.0, clock=clock), clock)


def build_task(user_id: str = "u", candidate_ids: Sequence[str] = CANDIDATES, deadline_s: float = 1e9) -> RankingTask:
    """A task at `NOW_MS`, by default with a deadline that is never reached."""
    return RankingTask(user_id, candidate_ids, NOW_MS, deadline_s)


def request_body(**changes: object) -> dict[str, object]:
    """The body of a ranking request."""
    return {"user_id": "u", "candidate_ids": CANDIDATES, "time_ms": NOW_MS} | changes


class WebServer:
    """An application on the service's HTTP server, behind a real socket, and an HTTP client for it."""

    def __init__(self, app: Any, limits: HttpSettings | None = None, body_limit_bytes: int = 1024 * 1024) -> None:
        self._server = uvicorn.Server(BoundedConfig(app, "127.0.0.1", 0, limits or HttpSettings(), body_limit_bytes))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def post(self, path: str, json: object, headers: dict[str, str] | None = None) -> httpx.Response:
        """POST a JSON body."""
        return self._http.post(path, json=json, headers=headers)

    def send(
        self, method: str, path: str, body: str | bytes | Iterable[bytes], headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send any body, as it is."""
        return self._http.request(method, path, content=body, headers=headers)

    def get(self, path: str) -> httpx.Response:
        """GET a path."""
        return self._http.get(path)

    def close(self) -> None:
        """Stop the server."""
        self._http.close()
        self._server.should_exit = True
        self._thread.join()
