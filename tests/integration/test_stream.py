"""The real thing: a broker, Redis, two workers in one group and the ranking service; one worker is killed half-way.

What is in Redis afterwards is compared, byte for byte, with what one in-process replay writes to the embedded store.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
import torch
from kafka import KafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from demo import ANSWERS, ORDER_LINES
from evaluation.datasets.online_retail import read_retail
from features.definitions import VIEWS
from features.parity import read_served_features
from features.repository import FeatureRepository
from infra import local, process
from infra.scratch import settings_on_free_ports, start_empty
from reaseq.artifacts import current
from reaseq.behavior.history import event_key
from reaseq.records import Event, Inferred, Item, UserFeatures
from reaseq.settings import Settings
from streams.assembly import assemble
from streams.contract.delivery import Delivery
from streams.contract.messages import RawRecord
from streams.contract.stage import BatchPolicy
from streams.contract.topics import EVENTS, ITEM_FEATURES, ITEMS, USER_FEATURES, Topic
from streams.operations import status
from streams.operations.dead_letter_queue import DeadLetterQueue, Filter
from streams.operations.rebuild import rebuild
from streams.runtime.in_process import InProcessBroker, InProcessRuntime
from streams.runtime.kafka_clients import Producer, read_all

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENTS_WANTED = 20_000
SETTLE_TIMEOUT_S = 300.0
Rows = dict[str, dict[bytes, bytes]]


@dataclass
class Running:
    """The system under test, and what was produced to it."""

    settings: Settings
    workers: list[process.Process]
    items: tuple[Item, ...]
    events: tuple[Event, ...]
    scrapes_of_the_dead: list[str] = field(default_factory=list)

    def wait_until_lag(self, topics: tuple[str, ...], at_most: int = 0) -> None:
        """Wait until the group has acknowledged all but `at_most` records of the topics."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            lags = {topic.name: topic.lag for topic in status.topics_status(self.settings)}
            if all(lags[name] <= at_most for name in topics):
                return
        logs = "\n".join(worker.log_tail() for worker in self.workers)
        raise AssertionError(f"lag did not settle: {lags}\n{logs}")

    def settle(self) -> None:
        """Wait until nothing moves any more."""
        self.wait_until_lag(tuple(topic.name for topic in status.SOURCES))

    def wait_for_item_tables(self) -> None:
        """Wait until every worker's item table holds all of `item-features`: inference reads the catalog there."""
        [topic] = [topic for topic in status.topics_status(self.settings) if topic.name == ITEM_FEATURES.name]
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        for worker in self.workers:
            while dict(_samples(worker, "reaseq_tailed_records")) != {(("topic", ITEM_FEATURES.name),): topic.held}:
                assert time.monotonic() < deadline, f"{worker.name} did not follow {topic}"
                time.sleep(0.2)

    def reasoned(self) -> int:
        """How many items the workers that are alive have reasoned about."""
        total = 0
        for worker in self.workers:
            if worker.alive:
                for sample in _samples(worker, "reaseq_outcomes_total"):
                    total += int(sample[1]) if ("what", "reasoned") in sample[0] else 0
        return total


@pytest.fixture(scope="module")
def running(quick_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The system, up, with a catalog and half of the events behind it when a worker is killed."""
    state = tmp_path_factory.mktemp("system")
    os.symlink(quick_demo / "state" / "models", state / "models")
    settings = settings_on_free_ports(state)
    settings.knowledge.recorded_file = ANSWERS
    settings.kafka.session_timeout_s = 6.0
    settings.kafka.archive_batch_wait_s = 1.0
    settings.service.port = process.free_port()
    settings.service.served_feature_log_share = 1.0
    try:
        rebuild(settings, start_empty(settings))
        workers = [local.start_worker(settings, f"worker-{number}") for number in (1, 2)]
        ranker = local.start_ranker(settings)
        for started in (*workers, ranker):
            local.wait_ready(started)
        retail = read_retail(ORDER_LINES)
        events = tuple(event for order in retail.orders for event in order.events)[-EVENTS_WANTED:]
        bought = {event.item_id for event in events}
        items = tuple(item for item in retail.items if item.item_id in bought)[:1500]
        yield Running(settings, workers, items, events)
    finally:
        local.stop_all(settings)


@pytest.fixture(scope="module")
def after_the_kill(running: Running) -> Running:
    """Everything has been produced and processed; one worker did not live to see the end."""
    producer = Producer(running.settings.kafka)
    producer.send(running.items)
    running.settle()
    running.wait_for_item_tables()  # what is inferred is the same for every order of events only when they are there first
    producer.send(running.events)
    running.wait_until_lag((EVENTS.name,), at_most=len(running.events) // 2)
    victim = running.workers[0]
    os.killpg(victim.pid, signal.SIGKILL)
    producer.close()
    running.settle()
    return running


@pytest.fixture(scope="module")
def reference(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What one in-process replay of the same records leaves in the embedded store."""
    torch.set_num_threads(running.settings.worker.threads)
    settings = Settings(state_dir=tmp_path_factory.mktemp("reference"))
    settings.knowledge.recorded_file = ANSWERS
    system = assemble(settings, BatchPolicy(256, 0.0), BatchPolicy(5000, 3600.0))
    system.use_behavior(current(running.settings.models_dir, "behavior"))
    log = InProcessBroker()
    log.subscribe(ITEM_FEATURES.name, system.apply_item_records)
    runtime = InProcessRuntime(log, lambda stage: Delivery(stage, log, system.store, 300.0), system.stages)

    async def replay() -> None:
        for records in (running.items, running.events):
            await runtime.publish(records)
            await runtime.run_until_idle(flush=True)

    asyncio.run(replay())
    assert not log.dead_letters
    return _rows(settings)


def test_every_item_and_user_is_in_the_store_with_exactly_the_reference_values(
    after_the_kill: Running, reference: Rows
) -> None:
    rows = _rows(after_the_kill.settings)

    for view in VIEWS:
        assert rows[view.name].keys() == reference[view.name].keys(), f"{view.name}: lost or invented entities"
        differing = [key for key, row in rows[view.name].items() if row != reference[view.name][key]]
        assert not differing, f"{view.name}: {len(differing)} of {len(rows[view.name])} rows differ"


def test_no_event_is_lost_or_doubled(after_the_kill: Running) -> None:
    limit = after_the_kill.settings.behavior.history_limit_events
    by_user: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in after_the_kill.events:
        by_user[event.user_id].append((event.event_time_ms, event_key(event.event_id)))

    users = FeatureRepository(after_the_kill.settings).read_users(list(by_user))

    assert users.keys() == by_user.keys()
    for user_id, produced in by_user.items():
        history = users[user_id].history
        assert list(zip(history.times_ms, history.event_keys, strict=True)) == sorted(produced)[-limit:]


def test_nothing_went_to_the_dead_letters(after_the_kill: Running) -> None:
    assert not DeadLetterQueue(after_the_kill.settings.kafka, 3).counts()


def test_a_second_replay_changes_no_value_and_reasons_about_nothing(after_the_kill: Running) -> None:
    before, reasoned = _rows(after_the_kill.settings), after_the_kill.reasoned()
    producer = Producer(after_the_kill.settings.kafka)
    producer.send(after_the_kill.items)
    producer.send(after_the_kill.events)
    producer.close()
    after_the_kill.settle()

    assert _rows(after_the_kill.settings) == before
    assert after_the_kill.reasoned() == reasoned


def test_the_ranking_service_ranks_what_the_stream_brought(after_the_kill: Running) -> None:
    candidates = [item.item_id for item in after_the_kill.items[:500]]
    last = after_the_kill.events[-1]

    answer = _rank(after_the_kill, last.user_id, candidates, last.event_time_ms)

    assert sorted(ranked["item_id"] for ranked in answer["ranked"]) == sorted(candidates)
    scores = [ranked["score"] for ranked in answer["ranked"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 100
    assert (answer["fallback_level"], answer["degraded"]) == ("fresh", [])
    assert answer["features_time_ms"] == last.event_time_ms


def test_the_ranking_service_says_what_it_did_without(after_the_kill: Running) -> None:
    answer = _rank(after_the_kill, "nobody", ["no such item", after_the_kill.items[0].item_id], 1_323_000_000_000)

    assert answer["degraded"] == ["unknown_user", "unknown_candidates"]
    assert len(answer["ranked"]) == 2


def test_what_was_served_is_what_the_point_in_time_join_tells_training(after_the_kill: Running) -> None:
    settings, served = after_the_kill.settings, 0
    latest = {event.user_id: event.event_time_ms for event in after_the_kill.events}
    for user_id, time_ms in list(latest.items())[:60]:
        _rank(after_the_kill, user_id, [after_the_kill.items[0].item_id], time_ms + 1)
        served += 1

    command = [sys.executable, "-m", "reaseq", "features", "parity"]
    env = {**os.environ, **local.environment(settings)}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    rows = read_served_features(settings.state_dir / "served")
    users = [row for row in rows if row.entity == "user"]
    assert len(users) >= served and len(rows) >= 2 * served and f"{len(rows)} served rows" in run.stdout
    assert " equal " in run.stdout and not any(f" {verdict} " in run.stdout for verdict in ("different", "late", "yet"))


def test_the_smoke_check_finds_everything_in_order(after_the_kill: Running) -> None:
    settings = after_the_kill.settings
    command = [sys.executable, "-m", "reaseq", "smoke"]
    run = subprocess.run(
        command, env={**os.environ, **local.environment(settings)}, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert [line.split(":")[0] for line in run.stdout.splitlines()] == [
        "an item is servable",
        "it is reasoned about",
        "a user's event is servable",
        "it ranks by both",
    ]
    after_the_kill.settle()
    gone = [
        record for page in FeatureRepository(settings).scan_items() for record in page if record.item_id.startswith("smoke-")
    ]
    assert [record.status for record in gone] == ["delisted"]


def test_bad_input_is_buried_with_a_reason_and_stops_no_worker(after_the_kill: Running) -> None:
    def item(**changes: object) -> bytes:
        return json.dumps({"schema": "item.1", "item_id": "x", "title": "t", "event_time_ms": 1} | changes).encode()

    def event(**changes: object) -> bytes:
        fields = {"schema": "event.1", "event_id": "e", "user_id": "u", "item_id": "never listed", "type": "view"}
        return json.dumps(fields | {"event_time_ms": 1} | changes).encode()

    bad = [
        (ITEMS, "x", b"{not json", "malformed_json"),
        (ITEMS, "x", json.dumps({"schema": "item.1", "item_id": "x", "event_time_ms": 1}).encode(), "invalid_field"),
        (ITEMS, "x", item(title=7), "invalid_field"),
        (ITEMS, "x", item(schema="item.9"), "unknown_schema"),
        (ITEMS, "x", item(title="t" * 2_000_000), "invalid_field"),
        (EVENTS, "u", event(event_time_ms=4_000_000_000_000), "from_the_future"),
        (EVENTS, "other", event(), "key_mismatch"),
    ]
    accepted = [(ITEMS, "never listed either", None), (EVENTS, "u", event())]
    producer = Producer(after_the_kill.settings.kafka)
    now_ms = int(time.time() * 1000)
    producer.send_raw(RawRecord(topic.name, key.encode(), value, now_ms) for topic, key, value, _ in bad)
    producer.send_raw(RawRecord(topic.name, key.encode(), value, now_ms) for topic, key, value in accepted)
    producer.close()
    _produce_compressed(after_the_kill.settings, EVENTS, "u", b" " * 2 * after_the_kill.settings.kafka.max_message_bytes)
    after_the_kill.settle()

    buried: Counter[str] = Counter()
    for (_, reason), count in DeadLetterQueue(after_the_kill.settings.kafka, 3).counts().items():
        buried[reason] += count
    assert buried == Counter(["malformed_json", *(reason for *_, reason in bad)])
    users = FeatureRepository(after_the_kill.settings).read_users(["u"])
    assert users["u"].history.item_ids == ("never listed",)
    assert after_the_kill.workers[1].alive


def _produce_compressed(settings: Settings, topic: Topic, key: str, value: bytes) -> None:
    """As a producer would that is none of ours: the broker's limit is one of the compressed size."""
    servers, limit = settings.kafka.bootstrap_servers, 2 * len(value)
    producer = KafkaProducer(bootstrap_servers=servers, compression_type="lz4", max_request_size=limit)
    producer.send(topic.name, key=key.encode(), value=value).get(timeout=10)
    producer.close()


def test_dead_letters_are_looked_at_and_replayed_by_command(after_the_kill: Running) -> None:
    settings, [*letters] = (
        after_the_kill.settings,
        DeadLetterQueue(after_the_kill.settings.kafka, 3).open(Filter(reason="unknown_*")),
    )

    listed = _command(settings, "dead-letters", "list", "--reason", "unknown_*")
    shown = _command(settings, "dead-letters", "show", letters[0].id)
    replayed = _command(settings, "dead-letters", "replay", "--reason", "unknown_*")
    after_the_kill.settle()

    assert len(letters) == 1 and letters[0].id in listed
    assert "item.9" in shown and "unknown_schema" in shown
    assert "1 replayed" in replayed
    [again] = DeadLetterQueue(settings.kafka, 3).open(Filter(reason="unknown_*"))
    assert again.attempts == 2 and again.id != letters[0].id
    assert "1 discarded" in _command(settings, "dead-letters", "discard", "--id", again.id)


def test_one_wish_removes_all_that_is_known_of_a_user(after_the_kill: Running) -> None:
    settings, store = after_the_kill.settings, FeatureRepository(after_the_kill.settings)
    user_id, other = list(dict.fromkeys(event.user_id for event in after_the_kill.events))[:2]
    before = store.read_users([user_id, other])
    assert before[user_id].history.item_ids and before[user_id].inferred.item_ids
    assert user_id in _archived(settings)
    letters = DeadLetterQueue(settings.kafka, 3)
    of_others = letters.counts()["history", "malformed_json"]
    producer = Producer(settings.kafka)
    producer.send_raw([RawRecord(EVENTS.name, user_id.encode(), b"{broken", int(time.time() * 1000))])
    after_the_kill.settle()
    assert letters.counts()["history", "malformed_json"] == of_others + 1

    _command(settings, "forget", user_id)
    after_the_kill.settle()
    producer.send([event for event in after_the_kill.events if event.user_id == user_id])  # who sends it all again, in vain
    producer.close()
    after_the_kill.settle()

    left = store.read_users([user_id, other])
    assert left[user_id].history.forgotten_ms and not left[user_id].history.item_ids and left[user_id].inferred == Inferred()
    assert left[other] == before[other]
    [last] = {raw.key: raw.value for raw in read_all(settings.kafka, USER_FEATURES) if raw.key == user_id.encode()}.values()
    assert msgspec.json.decode(last or b"", type=UserFeatures) == left[user_id]
    assert user_id not in _archived(settings) and other in _archived(settings)
    assert letters.counts()["history", "malformed_json"] == of_others


def test_a_service_that_is_told_to_end_first_says_so_and_still_answers(after_the_kill: Running) -> None:
    settings = after_the_kill.settings
    ranker = process.find(settings.run_dir, "ranker")
    assert ranker
    os.kill(ranker.pid, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while process.http_get(f"http://127.0.0.1:{settings.service.port}/readyz") is not None and time.monotonic() < deadline:
        time.sleep(0.02)

    answer = _rank(after_the_kill, "nobody", [after_the_kill.items[0].item_id], 1_323_000_000_000)
    assert answer["fallback_level"] == "fresh"
    while ranker.alive and time.monotonic() < deadline + 10:
        time.sleep(0.05)
    assert not ranker.alive


def _command(settings: Settings, *arguments: str) -> str:
    env = {**os.environ, **local.environment(settings), "COLUMNS": "200"}
    run = subprocess.run([sys.executable, "-m", "reaseq", *arguments], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def _archived(settings: Settings) -> set[str]:
    folders = [settings.archive_dir / view for view in ("user_history", "user_inferred")]
    return {user_id for folder in folders for user_id in pq.read_table(folder, columns=["user_id"])["user_id"].to_pylist()}


def _rows(settings: Settings) -> Rows:
    repository = FeatureRepository(settings)
    return {view.name: dict(repository.online.scan(repository.config, view)) for view in VIEWS}


def _samples(worker: process.Process, name: str) -> Iterator[tuple[tuple[tuple[str, str], ...], float]]:
    scrape = process.http_get(f"http://127.0.0.1:{worker.ports[0]}/metrics") or ""
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            if sample.name == name:
                yield tuple(sorted(sample.labels.items())), sample.value


def _rank(running: Running, user_id: str, candidates: list[str], time_ms: int) -> dict:  # type: ignore[type-arg]
    asked = {"user_id": user_id, "candidate_ids": candidates, "time_ms": time_ms, "budget_ms": 10_000}
    body = json.dumps(asked).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.settings.service.port}/v1/rank", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)  # type: ignore[no-any-return]
