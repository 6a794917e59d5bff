"""What the console tells, apart from its pages: those are looked at in a browser (tests/integration/test_console.py)."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reaseq.artifacts import publish
from reaseq.errors import BrokerUnavailable
from reaseq.settings import Settings
from serving.console import stream
from serving.console.models import published
from serving.console.stream import StreamWatch
from tests.fakes.ranker import publish_ranker


class StandInLetters:
    """Of dead letters there are none."""

    def __init__(self, *arguments: object) -> None:
        pass

    def counts(self) -> Counter[tuple[str, str]]:
        return Counter()


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Instead of brokers: who looked."""
    looked: list[Settings] = []

    def look(settings: Settings) -> list[object]:
        looked.append(settings)
        return []

    monkeypatch.setattr(stream, "DeadLetterQueue", StandInLetters)
    monkeypatch.setattr(stream, "topics_status", look)
    return looked


def test_a_model_that_is_not_whole_is_named_beside_those_that_are(tmp_path: Path) -> None:
    version = publish_ranker(tmp_path)
    broken = publish(tmp_path, "student", "s", {"weights": b"abc"}, {})
    (broken.path / "weights").write_bytes(b"cut")

    ranker, student = published(tmp_path)

    assert (ranker.kind, ranker.version, ranker.broken) == ("ranker", version, "")
    assert (student.kind, student.version) == ("student", "") and "was changed or cut" in student.broken


def test_versions_that_are_not_in_force_are_listed(tmp_path: Path) -> None:
    first, second = publish_ranker(tmp_path, 0), publish_ranker(tmp_path, 1)

    (ranker,) = published(tmp_path)

    assert (ranker.version, ranker.others) == (second, (first,))


def test_many_who_look_cost_as_much_as_one(looked: list[Settings]) -> None:
    watch = StreamWatch(Settings())
    assert len({watch.health().seen_ms for _ in range(20)}) == 1
    assert len(looked) == 1


def test_brokers_that_do_not_answer_are_asked_again(looked: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    rejected = []

    def refuse(settings: Settings) -> list[object]:
        rejected.append(settings)
        raise BrokerUnavailable("no broker")

    watch = StreamWatch(Settings())
    with monkeypatch.context() as down:
        down.setattr(stream, "topics_status", refuse)
        for _ in range(20):
            with pytest.raises(BrokerUnavailable, match="no broker"):
                watch.health()
    assert len(rejected) == 1, "who asks meanwhile is told the same"
    monkeypatch.setattr(watch, "_look_again_s", 1e-9)
    assert watch.health().topics == ()


def test_while_somebody_looks_the_others_are_told_what_was_seen_last(
    looked: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = StreamWatch(Settings())
    first = watch.health()
    watch._look_again_s = 1e-9
    begun, ending = threading.Event(), threading.Event()

    def slow(settings: Settings) -> list[object]:
        begun.set()
        ending.wait(10)
        return []

    monkeypatch.setattr(stream, "topics_status", slow)
    looking = threading.Thread(target=watch.health)
    looking.start()
    begun.wait(10)

    assert watch.health() is first
    ending.set()
    looking.join()
    assert watch.health() is not first


def test_each_worker_says_how_it_is_and_one_that_is_silent_is_named(looked: list[Settings]) -> None:
    class Stalled(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"events stand still\n" if self.path == "/readyz" else b""
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

    workers = {worker.address: worker.trouble for worker in StreamWatch(settings).health().workers}
    server.shutdown()
    server.server_close()
    thread.join()

    assert workers == {
        stalled: "events stand still",
        silent: "does not answer (ConnectError)",
        "http://no-such-worker.invalid:9100": "does not answer (ConnectError)",
    }
