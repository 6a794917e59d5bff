"""Web servers for the tests of the ranking service."""

from collections.abc import Callable, Iterator

import pytest

from reaseq.settings import ServiceSettings
from serving.app import AppState, create_app
from tests.fakes.ranker import USER, Store
from tests.fakes.serving import WebServer, build_ranker


@pytest.fixture
def serve() -> Iterator[Callable[[AppState], WebServer]]:
    """Starts web servers, and stops them when the test ends."""
    started: list[WebServer] = []

    def start(state: AppState) -> WebServer:
        started.append(WebServer(create_app(state)))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def start_service(serve: Callable[[AppState], WebServer]) -> Callable[..., WebServer]:
    """Starts a service on the fake store, with some settings changed."""

    def start(
        store: Store | None = None,
        waiting_for: Callable[[], str | None] = lambda: None,
        failure: Callable[[], str | None] = lambda: None,
        **changes: object,
    ) -> WebServer:
        settings = ServiceSettings(budget_ms=10_000).model_copy(update=changes)
        return serve(AppState(build_ranker(store or Store(USER)), settings, waiting_for, failure))

    return start
