"""A real Prometheus scrapes a real system: every alert fires on its fault, and every dashboard panel has data.

The rules run on compressed time: their minute is two seconds, their hour two minutes.
"""

import gzip
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from shutil import copytree
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
import redis
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from demo import ANSWERS, ORDER_LINES
from evaluation.datasets.online_retail import read_retail
from infra import local, process
from infra.grafana.dashboards import RANKING, STREAM
from infra.prometheus.server import RULES, firing, query, start_prometheus
from infra.scratch import settings_on_free_ports, start_empty
from reaseq.artifacts import current, publish
from reaseq.ranker.engine import KIND as RANKER
from reaseq.records import EARLIEST_TIME_MS, Event, Item
from reaseq.settings import Settings
from serving.api import RankingRequest
from serving.client import RankingClient, RankingRejected
from streams.delivery.messages import RawRecord, encode
from streams.delivery.topics import EVENTS, ITEM_FEATURES, Topic
from streams.operations.rebuild import rebuild
from streams.runtime.kafka.producer import Producer
from tests.commands import reaseq
from tests.integration.curves import wait_for_data

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT_S = 120.0
PATIENT_MS = 20_000.0  # budget of a ranking: a busy machine must not make a caller give up
WARM_UP_ROUNDS = 20
CALLERS = 4
COMPRESSED_UNITS = {"m": "s", "h": "m"}
COMPRESSED_MINUTE_S = 2


def compress_time(promql: str) -> str:
    """Shorten every duration in the rules to a thirtieth."""
    return re.sub(
        r"(?<=[\[ ])(\d+)([mh])\b", lambda match: f"{COMPRESSED_MINUTE_S * int(match[1])}{COMPRESSED_UNITS[match[2]]}", promql
    )


@dataclass
class Observed:
    """The system, its Prometheus, and the shop's events to produce."""

    settings: Settings
    worker: process.Process
    ranker: process.Process
    prometheus: process.Process
    items: Sequence[Item]
    events: Iterator[Event]
    textfile: Path
    spans: list[Span]

    def wait_for(self, *alerts: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until all of the alerts fire, calling `meanwhile` repeatedly."""
        self.wait_until(lambda: set(alerts) <= firing(self.prometheus), f"{alerts} to fire", meanwhile)

    def wait_for_silence(self, *alerts: str) -> None:
        """Wait until none of the alerts is firing."""
        self.wait_until(lambda: not set(alerts) & firing(self.prometheus), f"{alerts} to be silent")

    def wait_for_no_alerts(self) -> None:
        """Wait until no alert fires under ordinary load."""
        for _ in range(WARM_UP_ROUNDS):
            self.work()
        self.wait_until(lambda: not firing(self.prometheus), "no alerts", self.work)

    def send_events(self, events: int) -> None:
        """Produce events, and give the workers a moment."""
        producer = Producer(self.settings.kafka)
        producer.send([next(self.events) for _ in range(events)])
        producer.close()
        time.sleep(0.2)

    def work(self) -> None:
        """One round of ordinary load."""
        self.send_events(20)
        self.rank()

    def rank(self) -> None:
        """Rank once, for a user with or without a history."""
        with RankingClient(f"http://127.0.0.1:{self.ranker.ports[0]}", budget_ms=PATIENT_MS) as client:
            client.rank(
                RankingRequest(user_id=next(self.events).user_id, candidate_ids=[item.item_id for item in self.items[:100]])
            )

    def wait_until(self, is_done: Callable[[], bool], what: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until `is_done`, calling `meanwhile` repeatedly."""
        deadline = time.monotonic() + TIMEOUT_S
        while not is_done():
            assert time.monotonic() < deadline, f"waited for {what}; firing: {firing(self.prometheus)}"
            meanwhile()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def observed(quick_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    monkeypatch = pytest.MonkeyPatch()
    state = tmp_path_factory.mktemp("observed")
    copytree(quick_demo / "state" / "models", state / "models")
    settings = settings_on_free_ports(state)
    settings.knowledge.recorded_file = ANSWERS  # of the sample's items; other items need a model call, on a budget of 0
    settings.knowledge.llm.base_url, settings.knowledge.llm.budget_day_tokens = "http://127.0.0.1:1/v1", 0
    settings.service.port, settings.service.served_feature_log_share = process.free_port(), 1.0
    settings.service.reload_interval_s = 0.5
    settings.kafka.archive_batch_wait_s = 1.0
    settings.store.redis_timeout_s = 1.0
    settings.worker.stall_s, settings.worker.reconcile_interval_s = 5.0, 1.0
    rules, textfile = state / "rules.yml", state / "textfile" / "metrics"
    rules.write_text(compress_time(RULES.read_text()))
    textfile.parent.mkdir()
    retail = read_retail(ORDER_LINES)
    try:
        rebuild(settings, start_empty(settings))
        with collect_spans() as (collector, spans), serve_folder(textfile.parent) as textfile_port:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
            worker, ranker = local.start_worker(settings, "worker-1"), local.start_ranker(settings)
            for started in (worker, ranker):
                local.wait_ready(started)
            ports = {"reaseq-worker": worker.ports[0], "reaseq-ranker": ranker.ports[0], "textfile": textfile_port}
            jobs = {job: [f"127.0.0.1:{port}"] for job, port in ports.items()}
            prometheus = start_prometheus(settings.run_dir, process.free_port(), jobs, rules, "1s")
            answered = set(pq.read_table(ANSWERS, columns=["description"])["description"].to_pylist())
            items = [item for item in retail.items if item.title in answered][:200]
            producer = Producer(settings.kafka)
            producer.send(items)
            producer.close()
            events = iter([event for order in retail.orders for event in order.events])
            yield Observed(settings, worker, ranker, prometheus, items, events, textfile, spans)
    finally:
        monkeypatch.undo()
        local.stop_all(settings)


@contextmanager
def serve_folder(folder: Path) -> Iterator[int]:
    """A web server for a folder, in the role of node_exporter's textfile collector; yields its port."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    with web_server(Handler) as port:
        yield port


@contextmanager
def collect_spans() -> Iterator[tuple[str, list[Span]]]:
    """A fake OpenTelemetry collector; yields its address and the spans it receives."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            plain = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
            for resource in ExportTraceServiceRequest.FromString(plain).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with web_server(Handler) as port:
        yield f"http://127.0.0.1:{port}", spans


@contextmanager
def web_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """A web server; yields its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def paused(running: process.Process | None) -> Iterator[None]:
    """Suspend a process."""
    assert running
    os.killpg(running.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(running.pid, signal.SIGCONT)


def test_no_alert_fires_on_a_healthy_system(observed: Observed) -> None:
    observed.wait_for_no_alerts()

    assert {series["value"][1] for series in query(observed.prometheus, 'up{job=~"reaseq-.+"}')} == {"1"}


def test_hanging_store_stalls_commits_grows_lag_and_burns_freshness(observed: Observed) -> None:
    meanwhile = ("ReaseqCommitStalled", "ReaseqWaiting", "ReaseqLagGrows", "ReaseqRankingDegraded")
    afterwards = ("ReaseqFreshnessBurnsFast", "ReaseqFreshnessBurnsSlowly")
    observed.wait_for_silence(*meanwhile, *afterwards)

    def load() -> None:
        observed.send_events(200)
        observed.rank()

    with paused(process.find(observed.settings.run_dir, "redis")):
        observed.wait_for(*meanwhile, meanwhile=load)
    for alert in afterwards:  # the second fires when the first is over
        observed.wait_for(alert)


@pytest.mark.parametrize(
    ("topic", "value", "alert"),
    [
        (EVENTS, b"{invalid", "ReaseqDeadLetters"),
        (ITEM_FEATURES, b'{"schema":"item-features.2"', "ReaseqRecordsSkipped"),
    ],
)
def test_invalid_records_fire_the_alert_of_their_topic(observed: Observed, topic: Topic, value: bytes, alert: str) -> None:
    producer = Producer(observed.settings.kafka)

    def send_invalid() -> None:
        producer.send_raw([RawRecord(topic.name, b"key", value, int(time.time() * 1000))])

    observed.wait_for_silence(alert)
    observed.wait_for(alert, meanwhile=send_invalid)
    producer.close()


def test_lost_rows_fire_store_differs(observed: Observed) -> None:
    client = redis.Redis(port=urlsplit(observed.settings.store.redis_url.get_secret_value()).port or 0)

    def lose_rows() -> None:
        if keys := list(client.scan_iter(b"*:user_history:*", count=1000)):
            client.unlink(*keys[:50])

    observed.wait_for_silence("ReaseqStoreDiffers")
    observed.wait_for("ReaseqStoreDiffers", meanwhile=lose_rows)
    client.close()


def test_eviction_policy_fires_store_evicts_and_makes_the_worker_unready(observed: Observed) -> None:
    client = redis.Redis(port=urlsplit(observed.settings.store.redis_url.get_secret_value()).port or 0)
    ready = f"http://127.0.0.1:{observed.worker.ports[0]}/readyz"

    observed.wait_for_silence("ReaseqStoreEvicts")
    client.config_set("maxmemory-policy", "allkeys-lru")
    observed.wait_for("ReaseqStoreEvicts")
    assert process.http_get(ready) is None
    client.config_set("maxmemory-policy", "noeviction")
    client.close()
    observed.wait_for_silence("ReaseqStoreEvicts")
    observed.wait_until(lambda: process.http_get(ready) is not None, "the worker to be ready again")


def test_slow_rankings_fire_ranking_slow(observed: Observed) -> None:
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            observed.rank()

    def slow_down() -> None:
        with paused(observed.ranker):
            time.sleep(0.3)

    observed.wait_for_silence("ReaseqRankingSlow")
    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        observed.wait_for("ReaseqRankingSlow", meanwhile=slow_down)
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def test_published_ranker_of_another_space_fires_ranker_rejected(observed: Observed) -> None:
    observed.wait_for_silence("ReaseqRankerRejected")
    models = observed.settings.models_dir
    artifact = current(models, RANKER)
    publish(models, RANKER, "misfit", {"weights": b""}, {**artifact.facts, "space_id": "another"})

    observed.wait_for("ReaseqRankerRejected")


def test_served_value_that_training_would_not_read_fires_parity_broken(observed: Observed) -> None:
    observed.wait_for_silence("ReaseqParityBroken")
    log = next((observed.settings.served_features_dir).iterdir())
    first, *others = log.read_text().splitlines()
    changed = json.loads(first)
    changed["features"] = dict.fromkeys(changed["features"], "another")
    log.write_text("\n".join([json.dumps(changed), *others]) + "\n")

    reaseq(observed.settings, "features", "parity", "--metrics", str(observed.textfile), status=1)

    observed.wait_for("ReaseqParityBroken")


def test_used_up_token_budget_fires_token_budget_spent(observed: Observed) -> None:
    numbers = count()
    producer = Producer(observed.settings.kafka)

    def list_new_item() -> None:
        number = next(numbers)
        producer.send([Item(item_id=f"new-{number}", title=f"new item {number}", event_time_ms=EARLIEST_TIME_MS)])

    observed.wait_for_silence("ReaseqTokenBudgetSpent")
    observed.wait_for("ReaseqTokenBudgetSpent", meanwhile=list_new_item)
    producer.close()


def test_every_dashboard_panel_has_data(observed: Observed) -> None:
    with RankingClient(f"http://127.0.0.1:{observed.ranker.ports[0]}") as client, pytest.raises(RankingRejected):
        client.rank(RankingRequest(user_id="u", candidate_ids=["i"] * (observed.settings.service.candidates_limit + 1)))

    wait_for_data(observed.prometheus, [*STREAM, *RANKING])


def test_trace_follows_an_event_into_the_store_and_the_archive(observed: Observed) -> None:
    trace_id, parent_id = os.urandom(16), os.urandom(8)
    event = next(observed.events)
    record = encode(event, int(time.time() * 1000), (("traceparent", f"00-{trace_id.hex()}-{parent_id.hex()}-01".encode()),))
    producer = Producer(observed.settings.kafka)
    producer.send_raw([record])
    producer.close()

    def find_spans(stage: str) -> list[Span]:
        return [span for span in observed.spans if span.trace_id == trace_id and span.name == stage]

    deadline = time.monotonic() + TIMEOUT_S
    while not find_spans("archive-user-features") and time.monotonic() < deadline:
        time.sleep(0.2)

    [history] = find_spans("history")
    assert history.parent_span_id == parent_id
    assert {value.key: value.value.string_value for value in history.attributes}["reaseq.entity"] == event.user_id
    # Behaviors inferred later are archived under the same trace.
    assert history.span_id in {span.parent_span_id for span in find_spans("archive-user-features")}


def test_stopped_worker_fires_target_down(observed: Observed) -> None:
    observed.wait_for_silence("ReaseqTargetDown")
    process.stop(observed.settings.run_dir, "worker-1", wait_s=0.0)

    observed.wait_for("ReaseqTargetDown")
