"""The console's endpoints. Its pages are tested in a browser (tests/integration/test_console.py)."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter

from features.repository import FeatureRepository
from reaseq.artifacts import publish
from reaseq.errors import BrokerUnavailable
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.settings import ServiceSettings, Settings
from serving.app import AppState, create_app
from serving.console import stream
from serving.console.item_card import ItemCard
from serving.console.models import Models, list_published
from serving.console.recent import RecentActivity
from serving.console.routes import add_console
from serving.console.stream import StreamHealth, StreamMonitor
from serving.console.stream_history import StreamHistory, StreamHour
from serving.console.users import UserView
from streams.operations.status import TopicStatus
from tests.fakes.catalog import ITEMS, item
from tests.fakes.ranker import USER, Store, publish_ranker
from tests.fakes.serving import WebServer, build_ranker


class EmptyDeadLetterQueue:
    """A queue without dead letters."""

    def __init__(self, *args: object) -> None:
        pass

    def counts(self) -> Counter[tuple[str, str]]:
        return Counter()


@pytest.fixture
def observations(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Replaces the brokers, and grows with every observation of them."""
    observations: list[Settings] = []

    def observe(settings: Settings) -> list[object]:
        observations.append(settings)
        return []

    monkeypatch.setattr(stream, "DeadLetterQueue", EmptyDeadLetterQueue)
    monkeypatch.setattr(stream, "topics_status", observe)
    return observations


@pytest.fixture(scope="module")
def server(app: FastAPI) -> Iterator[WebServer]:
    """The application without the thread that observes brokers, of which there are none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamHistory, "_sample_until_stopped", lambda self: None)
        server = WebServer(app)
    yield server
    server.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The whole application on an embedded store with a small catalog and one user."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("console"))
    repository = FeatureRepository(settings)
    repository.apply()
    repository.write([item(number) for number in range(ITEMS)])
    repository.write([USER])
    publish_ranker(settings.models_dir)
    ranker = build_ranker(Store(USER))
    service: Any = SimpleNamespace(
        settings=settings,
        ranker=ranker,
        table=ranker.engine.table,
        vocabulary=load_vocabulary(settings.knowledge.vocabulary),
        active_users=SimpleNamespace(newest_first=lambda: [USER.user_id, "an erased user"]),
    )
    app = create_app(AppState(ranker, ServiceSettings()))
    add_console(app, service)
    return app


def test_openapi_declares_a_response_schema_for_every_endpoint(app: FastAPI) -> None:
    schemas = {
        path: operation["responses"]["200"]["content"]["application/json"]["schema"]
        for path, operations in app.openapi()["paths"].items()
        for operation in operations.values()
        if path.startswith("/v1/")
    }

    assert {"/v1/rank", "/v1/explain", "/v1/recent", "/v1/stream", "/v1/models", "/v1/items/{item_id}"} <= set(schemas)
    assert all(schemas.values()), schemas


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/items/i5", ItemCard),
        ("/v1/users/u", UserView),
        ("/v1/titles?item_id=i5&item_id=i6", dict[str, str]),
        ("/v1/recent", RecentActivity),
        ("/v1/models", Models),
        ("/v1/stream", StreamHealth),
        ("/v1/stream/history", StreamHour),
    ],
)
def test_response_matches_its_declared_model(
    server: WebServer, observations: list[Settings], monkeypatch: pytest.MonkeyPatch, path: str, model: Any
) -> None:
    monkeypatch.setattr(stream, "topics_status", lambda settings: [TopicStatus("items", "reaseq", 7, 1, 6, 2.5)])

    response = server.get(path)

    assert response.status_code == 200, response.text
    adapter = TypeAdapter(model)
    assert adapter.dump_python(adapter.validate_json(response.content), mode="json") == response.json()


def test_recent_names_popular_items_and_users_with_a_history(server: WebServer) -> None:
    recent = server.get("/v1/recent").json()

    assert len(recent["items"]) == 12 and set(recent["items"][0]) == {"item_id", "title"}
    assert recent["users"] == [USER.user_id]


@pytest.mark.parametrize(("path", "entity"), [("/v1/items/i-none", "item"), ("/v1/users/nobody", "user")])
def test_unknown_id_is_not_found(server: WebServer, path: str, entity: str) -> None:
    response = server.get(path)

    assert (response.status_code, response.json()["detail"]) == (404, f"the feature store has no such {entity}")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/items/" + "x" * 1000, 422),
        ("/v1/items/%ED%A0%80", 404),
        ("/v1/users/%00", 404),
        ("/v1/users/..%2f..%2fetc", 404),
        ("/v1/search", 422),
        ("/v1/search?words=" + "x" * 1000, 422),
        ("/v1/titles", 422),
        ("/v1/titles?" + "&item_id=echoed" * 501, 422),
        ("/v1/titles?item_id=" + "x" * 1000, 422),
        ("/v1/titles?" + "&item_id=" * 501, 422),
        ("/v1/no/such/endpoint", 404),
        ("/console/../../../etc/passwd", 404),
        ("/console/echoed", 404),
    ],
)
def test_hostile_address_is_rejected_in_few_words_that_do_not_repeat_it(server: WebServer, path: str, status: int) -> None:
    response = server.get(path)

    assert response.status_code == status and len(response.content) < 1000
    assert "echoed" not in response.text and "x" * 10 not in response.text


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "TRACE"])
def test_console_is_read_only(app: FastAPI, server: WebServer, method: str) -> None:
    paths = [
        path.replace("{item_id}", "i5").replace("{user_id}", "u") for path, of in app.openapi()["paths"].items() if "get" in of
    ]

    assert {server.send(method, path, b"{}").status_code for path in [*paths, "/", "/console/"]} == {405}


def test_truncated_model_is_listed_with_its_error(tmp_path: Path) -> None:
    version = publish_ranker(tmp_path)
    truncated = publish(tmp_path, "student", "s", {"weights": b"abc"}, {})
    (truncated.path / "weights").write_bytes(b"cut")

    ranker, student = list_published(tmp_path)

    assert (ranker.kind, ranker.version, ranker.error) == ("ranker", version, "")
    assert (student.kind, student.version) == ("student", "") and "was changed or truncated" in student.error


def test_other_published_versions_are_listed(tmp_path: Path) -> None:
    first, second = publish_ranker(tmp_path, 0), publish_ranker(tmp_path, 1)

    (ranker,) = list_published(tmp_path)

    assert (ranker.version, ranker.other_versions) == (second, (first,))


def test_many_viewers_cost_one_observation(observations: list[Settings]) -> None:
    monitor = StreamMonitor(Settings())

    assert len({monitor.observe().health.observed_ms for _ in range(20)}) == 1
    assert len(observations) == 1


def test_unavailable_brokers_are_cached_and_observed_again_after_expiry(
    observations: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = []

    def fail(settings: Settings) -> list[object]:
        failures.append(settings)
        raise BrokerUnavailable("no broker")

    monitor = StreamMonitor(Settings())
    with monkeypatch.context() as down:
        down.setattr(stream, "topics_status", fail)
        for _ in range(20):
            with pytest.raises(BrokerUnavailable, match="no broker"):
                monitor.observe()
    assert len(failures) == 1, "the error is cached like a result"
    monkeypatch.setattr(monitor, "_expires_s", 1e-9)
    assert monitor.observe().health.topics == ()


def test_cached_health_is_served_during_an_observation(observations: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = StreamMonitor(Settings())
    first = monitor.observe()
    monitor._expires_s = 1e-9
    started, released = threading.Event(), threading.Event()

    def observe_slowly(settings: Settings) -> list[object]:
        started.set()
        released.wait(10)
        return []

    monkeypatch.setattr(stream, "topics_status", observe_slowly)
    observing = threading.Thread(target=monitor.observe)
    observing.start()
    started.wait(10)

    assert monitor.observe() is first
    released.set()
    observing.join()
    assert monitor.observe() is not first


def test_workers_that_stall_or_do_not_answer_are_reported_by_address(observations: list[Settings]) -> None:
    class Stalled(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"no progress on events\n" if self.path == "/readyz" else b""
            self.send_response(503 if body else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalled)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    settings = Settings()
    stalled, silent = f"http://127.0.0.1:{server.server_port}", "http://127.0.0.1:1"
    settings.service.worker_urls = [f"http://localhost:{server.server_port}", silent, "http://no-such-worker.invalid:9100"]

    problems = {worker.address: worker.problem for worker in StreamMonitor(settings).observe().health.workers}
    server.shutdown()
    server.server_close()
    thread.join()

    assert problems == {
        stalled: "no progress on events",
        silent: "does not answer (ConnectError)",
        "http://no-such-worker.invalid:9100": "does not answer (ConnectError)",
    }
