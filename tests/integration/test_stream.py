"""The complete system: a broker, Redis, two workers in one group and the ranking service; one worker is killed halfway.

Afterwards, the rows in Redis must equal, byte for byte, those that one in-process replay writes to the embedded store.
"""

import asyncio
import dataclasses
import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from demo import ANSWERS, ORDER_LINES
from evaluation.datasets.online_retail import read_retail
from features.definitions import VIEWS, item_aggregates
from features.parity import read_served_features
from features.repository import FeatureRepository
from infra import local, process
from infra.scratch import start_empty
from reaseq.aggregates import BUILT_IN, POPULARITY, AggregateTable, evaluate, merge_tiles, unpack_tiles
from reaseq.artifacts import current
from reaseq.behavior.history import event_key
from reaseq.ranker.engine import Engine
from reaseq.ranker.latent import LatentModels
from reaseq.records import EARLIEST_TIME_MS, Event, Inferred, Item, UserFeatures
from reaseq.settings import Settings
from streams.assembly import Batching, assemble
from streams.delivery.delivery import Delivery
from streams.delivery.messages import RawRecord
from streams.delivery.stage import BatchPolicy
from streams.delivery.topics import DEAD_LETTERS, EVENTS, ITEM_AGGREGATES, ITEM_FEATURES, ITEMS, USER_FEATURES, Topic
from streams.item_aggregates_feed import ItemAggregatesFeed
from streams.operations import status
from streams.operations.dead_letter_queue import DeadLetterQueue, Filter
from streams.operations.rebuild import rebuild
from streams.runtime.in_process import InProcessBroker, InProcessRuntime
from streams.runtime.kafka.connection import client_options
from streams.runtime.kafka.producer import Producer
from streams.runtime.kafka.reader import read_all
from tests.commands import reaseq
from tests.ranking_service import settings_with_patient_service

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENT_COUNT = 20_000
SETTLE_TIMEOUT_S = 300.0
_TOPICS_OF_USERS = ("events", "user-features", "dead-letters")
Rows = dict[str, dict[bytes, bytes]]


@dataclass
class Running:
    """The system under test and its input."""

    settings: Settings
    workers: list[process.Process]
    items: tuple[Item, ...]
    events: tuple[Event, ...]

    @property
    def last_events(self) -> list[Event]:
        """One more event per user: inferred when all items are known, so from the same catalog in any order of arrival."""
        latest = {event.user_id: event for event in self.events}
        return [
            msgspec.structs.replace(event, event_id=f"last-{user_id}", event_time_ms=event.event_time_ms + 1)
            for user_id, event in latest.items()
        ]

    def wait_until_lag(self, topics: tuple[str, ...], at_most: int = 0) -> None:
        """Wait until the group has committed all but `at_most` records of the topics."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            lags = {topic.name: topic.lag for topic in status.topics_status(self.settings)}
            if all(lags[name] <= at_most for name in topics):
                return
        logs = "\n".join(worker.log_tail() for worker in self.workers)
        raise AssertionError(f"lag did not settle: {lags}\n{logs}")

    def settle(self) -> None:
        """Wait until there is no lag in any topic."""
        self.wait_until_lag(tuple(topic.name for topic in status.SOURCES))

    def wait_for_answers(self) -> None:
        """Wait until every user's behaviors are inferred from all events and from all items of the history."""
        repository, listed = FeatureRepository(self.settings), {item.item_id for item in self.items}
        user_ids = list({event.user_id for event in self.events})

        def is_answered(user: UserFeatures) -> bool:
            never_listed = sum(item_id not in listed for item_id in user.history.item_ids)
            return (user.inferred.events_seen, user.inferred.unknown_items) == (user.events_seen, never_listed)

        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while waiting := [user for user in repository.read_users(user_ids).values() if not is_answered(user)]:
            assert time.monotonic() < deadline, f"{len(waiting)} users lack inferred behaviors, such as {waiting[0]}"
            time.sleep(0.5)

    def wait_for_item_tables(self) -> None:
        """Wait until every live worker has applied all of `item-features` to its item table."""
        [topic] = [topic for topic in status.topics_status(self.settings) if topic.name == ITEM_FEATURES.name]
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        for worker in self.workers:
            while worker.alive and dict(_samples(worker, "reaseq_tailed_records")).popitem()[1] < topic.records:
                assert time.monotonic() < deadline, f"{worker.name} has not caught up with {topic}"
                time.sleep(0.2)

    def count_reasoned(self) -> int:
        """Items that the live workers have reasoned about."""
        total = 0
        for worker in self.workers:
            if worker.alive:
                for sample in _samples(worker, "reaseq_outcomes_total"):
                    total += int(sample[1]) if ("what", "reasoned") in sample[0] else 0
        return total


@pytest.fixture(scope="module")
def running(quick_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The started system, without input."""
    state = tmp_path_factory.mktemp("system")
    os.symlink(quick_demo / "state" / "models", state / "models")
    settings = settings_with_patient_service(state)
    settings.knowledge.recorded_file = ANSWERS
    settings.kafka.session_timeout_s = 6.0
    settings.kafka.archive_batch_wait_s = 1.0
    settings.worker.recall_interval_s, settings.worker.recall_users_per_s = 1.0, 1000.0
    settings.service.served_feature_log_share = 1.0
    try:
        rebuild(settings, start_empty(settings))
        workers = [local.start_worker(settings, f"worker-{number}") for number in (1, 2)]
        ranker = local.start_ranker(settings)
        for started in (*workers, ranker):
            local.wait_ready(started)
        retail = read_retail(ORDER_LINES)
        events = tuple(event for order in retail.orders for event in order.events)[-EVENT_COUNT:]
        bought = {event.item_id for event in events}
        items = tuple(item for item in retail.items if item.item_id in bought)[:1500]
        yield Running(settings, workers, items, events)
    finally:
        local.stop_all(settings)


@pytest.fixture(scope="module")
def after_the_kill(running: Running) -> Running:
    """The system after all input came at once, events before their items; one worker was killed halfway through the events."""
    producer = Producer(running.settings.kafka)
    half = len(running.events) // 2
    producer.send(running.events[:half])
    producer.send(running.items)
    producer.send(running.events[half:])
    running.wait_until_lag((EVENTS.name,), at_most=half)
    victim = running.workers[0]
    os.killpg(victim.pid, signal.SIGKILL)
    running.settle()
    running.wait_for_answers()
    running.wait_for_item_tables()
    last_events = running.last_events
    producer.send(last_events)
    producer.close()
    running = dataclasses.replace(running, events=(*running.events, *last_events))
    running.settle()
    running.wait_for_answers()
    return running


@dataclass
class Reference:
    """The outcome of one in-process replay of the same records, items first: the rows of the embedded store, and a ranker."""

    rows: Rows
    store: FeatureRepository
    engine: Engine


@pytest.fixture(scope="module")
def reference(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    torch.set_num_threads(running.settings.worker.threads)
    settings = Settings(state_dir=tmp_path_factory.mktemp("reference"))
    settings.knowledge.recorded_file = ANSWERS
    store = FeatureRepository(settings)
    store.apply()
    batch = BatchPolicy(256, 0.0)
    system = assemble(settings, store, Batching(batch, batch, batch, BatchPolicy(5000, 3600.0)))
    system.use_behavior(current(running.settings.models_dir, "behavior"))
    broker = InProcessBroker()
    broker.subscribe(ITEM_FEATURES.name, system.items.apply_records)
    aggregates, latents = AggregateTable(BUILT_IN), LatentModels(running.settings.models_dir)
    broker.subscribe(ITEM_AGGREGATES.name, ItemAggregatesFeed(aggregates, system.table, waiting_limit=0).apply_records)
    latents.load(current(running.settings.models_dir, "behavior").version)
    engine = Engine.load(current(running.settings.models_dir, "ranker"), system.table, aggregates, latents)
    runtime = InProcessRuntime(broker, lambda stage: Delivery(stage, broker, system.store, 300.0), system.stages)

    async def replay() -> None:
        for records in (running.items, running.events, running.last_events):
            await runtime.publish(records)
            await runtime.run_until_idle(flush=True)

    asyncio.run(replay())
    assert not broker.dead_letters
    return Reference(_rows(settings), system.store, engine)


def test_store_holds_every_item_and_user_with_the_reference_values(after_the_kill: Running, reference: Reference) -> None:
    rows = _rows(after_the_kill.settings)

    for view in (view for view in VIEWS if view is not item_aggregates):
        assert rows[view.name].keys() == reference.rows[view.name].keys(), f"{view.name}: lost or extra entities"
        differing = [key for key, row in rows[view.name].items() if row != reference.rows[view.name][key]]
        assert not differing, f"{view.name}: {len(differing)} of {len(rows[view.name])} rows differ"


def test_aggregates_are_those_of_the_reference_although_it_has_one_partition(
    after_the_kill: Running, reference: Reference
) -> None:
    now_ms = after_the_kill.events[-1].event_time_ms

    found = _aggregates(FeatureRepository(after_the_kill.settings), now_ms)

    assert (
        found == _aggregates(reference.store, now_ms)
        and sum(value["popularity_half_life_30d"] for value in found.values()) > 100
    )


def _aggregates(store: FeatureRepository, now_ms: int) -> dict[str, dict[str, float]]:
    """The popularity of each item with events, all partitions added up."""
    parts = defaultdict(list)
    for row in (row for page in store.scan_aggregates() for row in page):
        parts[row.item_id].append(unpack_tiles(row.tiles))
    return {item_id: evaluate(POPULARITY, merge_tiles(tiles), now_ms) for item_id, tiles in parts.items()}


def test_service_gives_the_scores_of_the_reference(after_the_kill: Running, reference: Reference) -> None:
    now_ms = after_the_kill.events[-1].event_time_ms + 1
    candidates = [item.item_id for item in after_the_kill.items[:200]]
    user_ids = sorted({event.user_id for event in after_the_kill.events})[:60]
    users = reference.store.read_users(user_ids)

    served, expected = [], []
    for user_id in user_ids:
        answer = _rank(after_the_kill, user_id, candidates, now_ms)
        assert not answer["degraded"]
        scores = {ranked["item_id"]: ranked["score"] for ranked in answer["ranked"]}
        served.append([scores[item_id] for item_id in candidates])
        expected.append(reference.engine.score(users[user_id], candidates, now_ms))

    np.testing.assert_allclose(served, np.array(expected), rtol=1e-5)


def test_restarted_service_gives_the_same_scores_to_the_last_bit(after_the_kill: Running) -> None:
    settings, now_ms = after_the_kill.settings, after_the_kill.events[-1].event_time_ms + 1
    candidates = [item.item_id for item in after_the_kill.items[:500]]
    user_ids = sorted({event.user_id for event in after_the_kill.events})[:20]
    before = [_rank(after_the_kill, user_id, candidates, now_ms)["ranked"] for user_id in user_ids]

    process.stop(settings.run_dir, "ranker")
    local.wait_ready(local.start_ranker(settings))

    assert [_rank(after_the_kill, user_id, candidates, now_ms)["ranked"] for user_id in user_ids] == before


def test_service_starts_while_the_store_is_away_and_ranks_by_popularity(after_the_kill: Running) -> None:
    settings, now_ms = after_the_kill.settings, after_the_kill.events[-1].event_time_ms + 1
    away = settings.model_copy(deep=True)
    away.store.redis_url = SecretStr(f"redis://{process.LOOPBACK}:{process.free_port()}/0")

    process.stop(settings.run_dir, "ranker")
    local.wait_ready(local.start_ranker(away))
    ranking = _rank(after_the_kill, "anyone", [item.item_id for item in after_the_kill.items], now_ms)
    process.stop(settings.run_dir, "ranker")
    local.wait_ready(local.start_ranker(settings))

    assert (ranking["fallback_level"], ranking["degraded"]) == ("popularity", ["store_unavailable"])
    sold = Counter(event.item_id for event in after_the_kill.events)
    assert all(sold[ranked["item_id"]] for ranked in ranking["ranked"][:20])


def test_no_event_is_lost_or_duplicated(after_the_kill: Running) -> None:
    limit = after_the_kill.settings.behavior.history_limit_events
    by_user: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in after_the_kill.events:
        by_user[event.user_id].append((event.event_time_ms, event_key(event.event_id)))

    users = FeatureRepository(after_the_kill.settings).read_users(list(by_user))

    assert users.keys() == by_user.keys()
    for user_id, produced in by_user.items():
        history = users[user_id].history
        assert list(zip(history.times_ms, history.event_keys, strict=True)) == sorted(produced)[-limit:]


def test_valid_input_leaves_no_dead_letter(after_the_kill: Running) -> None:
    assert not DeadLetterQueue(after_the_kill.settings.kafka, 3).counts()


def test_second_replay_changes_no_value_and_reasons_about_nothing(after_the_kill: Running) -> None:
    before, reasoned = _rows(after_the_kill.settings), after_the_kill.count_reasoned()
    producer = Producer(after_the_kill.settings.kafka)
    producer.send(after_the_kill.items)
    producer.send(after_the_kill.events)
    producer.close()
    after_the_kill.settle()

    assert _rows(after_the_kill.settings) == before
    assert after_the_kill.count_reasoned() == reasoned


def test_ranking_service_ranks_items_from_the_stream(after_the_kill: Running) -> None:
    candidates = [item.item_id for item in after_the_kill.items[:500]]
    last = after_the_kill.events[-1]

    answer = _rank(after_the_kill, last.user_id, candidates, last.event_time_ms)

    assert sorted(ranked["item_id"] for ranked in answer["ranked"]) == sorted(candidates)
    scores = [ranked["score"] for ranked in answer["ranked"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 100
    assert (answer["fallback_level"], answer["degraded"]) == ("fresh", [])
    assert answer["features_time_ms"] == last.event_time_ms


def test_ranking_service_reports_unknown_user_and_candidates(after_the_kill: Running) -> None:
    answer = _rank(after_the_kill, "nobody", ["no such item", after_the_kill.items[0].item_id], 1_323_000_000_000)

    assert answer["degraded"] == ["unknown_user", "unknown_candidates"]
    assert len(answer["ranked"]) == 2


def test_served_features_equal_the_point_in_time_join(after_the_kill: Running) -> None:
    settings, served = after_the_kill.settings, 0
    latest = {event.user_id: event.event_time_ms for event in after_the_kill.events}
    for user_id, time_ms in list(latest.items())[:60]:
        _rank(after_the_kill, user_id, [after_the_kill.items[0].item_id], time_ms + 1)
        served += 1

    output = reaseq(settings, "features", "parity")

    rows = read_served_features(settings.served_features_dir)
    users = [row for row in rows if row.entity == "user"]
    assert len(users) >= served and len(rows) >= 2 * served and f"{len(rows)} served rows" in output
    assert " equal " in output and not any(f" {result} " in output for result in ("different", "late", "yet"))


def test_smoke_check_passes(after_the_kill: Running) -> None:
    settings = after_the_kill.settings
    output = reaseq(settings, "smoke")

    assert [line.split(":")[0] for line in output.splitlines()] == [
        "item is servable",
        "item is reasoned",
        "event is servable",
        "ranking uses both",
    ]
    after_the_kill.settle()
    gone = [
        record for page in FeatureRepository(settings).scan_items() for record in page if record.item_id.startswith("smoke-")
    ]
    assert [record.status for record in gone] == ["delisted"]


def test_invalid_input_becomes_dead_letters_and_stops_no_worker(after_the_kill: Running) -> None:
    def item(**changes: object) -> bytes:
        return json.dumps(
            {"schema": "item.1", "item_id": "x", "title": "t", "event_time_ms": EARLIEST_TIME_MS} | changes
        ).encode()

    def event(**changes: object) -> bytes:
        fields = {"schema": "event.1", "event_id": "e", "user_id": "u", "item_id": "never listed", "type": "view"}
        return json.dumps(fields | {"event_time_ms": EARLIEST_TIME_MS} | changes).encode()

    bad = [
        (ITEMS, "x", b"{not json", "malformed_json"),
        (
            ITEMS,
            "x",
            json.dumps({"schema": "item.1", "item_id": "x", "event_time_ms": EARLIEST_TIME_MS}).encode(),
            "invalid_field",
        ),
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

    reasons: Counter[str] = Counter()
    for (_, reason), count in DeadLetterQueue(after_the_kill.settings.kafka, 3).counts().items():
        reasons[reason] += count
    assert reasons == Counter(["malformed_json", *(reason for *_, reason in bad)])
    users = FeatureRepository(after_the_kill.settings).read_users(["u"])
    assert users["u"].history.item_ids == ("never listed",)
    assert after_the_kill.workers[1].alive


def _produce_compressed(settings: Settings, topic: Topic, key: str, value: bytes) -> None:
    """Produce like a third-party client. The broker limits the compressed size, so it accepts a larger value."""
    servers, limit = settings.kafka.bootstrap_servers, 2 * len(value)
    producer = KafkaProducer(bootstrap_servers=servers, compression_type="lz4", max_request_size=limit)
    producer.send(topic.name, key=key.encode(), value=value).get(timeout=60)
    producer.close()


def test_commands_list_show_replay_and_discard_dead_letters(after_the_kill: Running) -> None:
    settings = after_the_kill.settings
    queue = DeadLetterQueue(settings.kafka, 3)
    [unknown] = queue.read_open(Filter(reason="unknown_*"))

    listed = reaseq(settings, "dead-letters", "list", "--reason", "unknown_*")
    shown = reaseq(settings, "dead-letters", "show", unknown.id)
    replayed = reaseq(settings, "dead-letters", "replay", "--reason", "unknown_*")
    after_the_kill.settle()

    assert unknown.id in listed
    assert "item.9" in shown and "unknown_schema" in shown
    assert "1 replayed" in replayed
    [failed_again] = queue.read_open(Filter(reason="unknown_*"))
    assert failed_again.attempts == 2 and failed_again.id != unknown.id
    assert "1 discarded" in reaseq(settings, "dead-letters", "discard", "--id", failed_again.id)


def test_erasure_request_removes_all_data_of_a_user(after_the_kill: Running) -> None:
    settings, store = after_the_kill.settings, FeatureRepository(after_the_kill.settings)
    user_id, other = list(dict.fromkeys(event.user_id for event in after_the_kill.events))[:2]
    before = store.read_users([user_id, other])
    assert before[user_id].history.item_ids and before[user_id].inferred.item_ids
    assert user_id in _archived(settings)
    queue = DeadLetterQueue(settings.kafka, 3)
    before_broken = queue.counts()["history", "malformed_json"]
    producer = Producer(settings.kafka)
    producer.send_raw([RawRecord(EVENTS.name, user_id.encode(), b"{broken", int(time.time() * 1000))])
    after_the_kill.settle()
    assert queue.counts()["history", "malformed_json"] == before_broken + 1

    reaseq(settings, "forget", user_id)
    after_the_kill.settle()
    producer.send(
        [event for event in after_the_kill.events if event.user_id == user_id]
    )  # older than the request, so they change nothing
    producer.close()
    after_the_kill.settle()

    after = store.read_users([user_id, other])
    assert after[user_id].history.forgotten_ms and not after[user_id].history.item_ids and after[user_id].inferred == Inferred()
    assert after[other] == before[other]
    [last] = {raw.key: raw.value for raw in read_all(settings.kafka, USER_FEATURES) if raw.key == user_id.encode()}.values()
    assert msgspec.json.decode(last or b"", type=UserFeatures) == after[user_id]
    assert user_id not in _archived(settings) and other in _archived(settings)
    assert queue.counts()["history", "malformed_json"] == before_broken


def test_unusable_item_features_stop_no_reader_running_or_starting(after_the_kill: Running) -> None:
    """As after a rollback: the topic holds records of a later version, which the older one cannot read."""
    settings = after_the_kill.settings
    [last] = {
        raw.key: raw for raw in read_all(settings.kafka, ITEM_FEATURES) if raw.key == after_the_kill.items[0].item_id.encode()
    }.values()
    good = msgspec.json.decode(last.value or b"")
    later = {"event_time_ms": good["event_time_ms"] + 1}
    unusable = [
        json.dumps(good | later | {"schema": "item-features.99"}),
        json.dumps(good | later)[:-20],
        json.dumps(good | later | {"space_id": "another"}),
        json.dumps(good | later | {"vector": "AAAA"}),
    ]
    reasons = {"unknown_schema", "malformed_json", "space_mismatch", "invalid_vector"}
    producer = Producer(settings.kafka)
    producer.send_raw([last._replace(value=value.encode()) for value in unusable])
    producer.close()

    new_worker = local.start_worker(settings, "worker-3")
    local.wait_ready(new_worker)
    process.stop(settings.run_dir, "ranker")
    local.wait_ready(local.start_ranker(settings))

    for worker in (after_the_kill.workers[1], new_worker):
        _wait_until_skipped(worker, reasons)
        assert process.http_get(f"http://127.0.0.1:{worker.ports[0]}/healthz") is not None
    item_id = after_the_kill.items[0].item_id
    answer = _rank(after_the_kill, after_the_kill.events[-1].user_id, [item_id], after_the_kill.events[-1].event_time_ms)
    assert (answer["fallback_level"], answer["degraded"]) == ("fresh", [])
    after_the_kill.settle()
    process.stop(settings.run_dir, "worker-3")


def test_id_of_an_erased_user_stays_only_where_the_security_page_says(after_the_kill: Running) -> None:
    settings, user_id = after_the_kill.settings, "user-to-be-erased"
    producer = Producer(settings.kafka)
    events = [
        msgspec.structs.replace(event, event_id=f"{user_id}-{number}", user_id=user_id)
        for number, event in enumerate(after_the_kill.events[-20:])
    ]
    producer.send(events)
    producer.send_raw(
        [
            RawRecord(EVENTS.name, user_id.encode(), b"{broken", int(time.time() * 1000)),
            RawRecord(EVENTS.name, b"another", msgspec.json.encode(events[0]), int(time.time() * 1000)),  # key_mismatch
        ]
    )
    producer.close()
    after_the_kill.settle()
    _rank(after_the_kill, user_id, [after_the_kill.items[0].item_id], events[-1].event_time_ms + 1)
    assert user_id in {row.entity_id for row in read_served_features(settings.served_features_dir)}
    assert user_id in _archived(settings)

    reaseq(settings, "forget", user_id)
    after_the_kill.settle()

    queue = DeadLetterQueue(settings.kafka, 3)
    assert not [letter for letter in queue.read_open() if user_id in repr(letter)]
    assert user_id not in _archived(settings)
    found = [
        path.relative_to(settings.state_dir).as_posix()
        for path in settings.state_dir.rglob("*")
        if user_id.encode() in _read_if_present(path)
    ]
    topics = "|".join(_TOPICS_OF_USERS)
    allowed = re.compile(rf"kafka/data/.*({topics})-\d+/.*|redis/.*|archive/\.forgotten(\.1)?\.json")
    assert found and [path for path in found if not allowed.fullmatch(path)] == []
    with closing(KafkaAdminClient(**client_options(settings.kafka))) as admin:
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in _TOPICS_OF_USERS]
        configs = admin.describe_configs(resources, config_filter="all")["topic"]
    limits = {topic: int(configs[topic]["max.compaction.lag.ms"]["value"]) for topic in (USER_FEATURES.name, DEAD_LETTERS.name)}
    assert set(limits.values()) == {settings.kafka.max_compaction_lag_s * 1000}
    assert int(configs[EVENTS.name]["retention.ms"]["value"]) == EVENTS.retention_ms


def test_terminating_service_is_not_ready_but_still_answers(after_the_kill: Running) -> None:
    settings = after_the_kill.settings
    ranker = process.find(settings.run_dir, "ranker")
    assert ranker
    os.kill(ranker.pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while process.http_get(f"http://127.0.0.1:{settings.service.port}/readyz") is not None and time.monotonic() < deadline:
        time.sleep(0.02)

    answer = _rank(after_the_kill, "nobody", [after_the_kill.items[0].item_id], 1_323_000_000_000)
    assert answer["fallback_level"] == "fresh"
    while ranker.alive and time.monotonic() < deadline + 30:
        time.sleep(0.05)
    assert not ranker.alive


def _archived(settings: Settings) -> set[str]:
    folders = [settings.archive_dir / view for view in ("user_history", "user_inferred")]
    return {user_id for folder in folders for user_id in pq.read_table(folder, columns=["user_id"])["user_id"].to_pylist()}


def _read_if_present(path: Path) -> bytes:
    """The content of a file; nothing if it is not a file, or was just replaced by a running process."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return b""


def _rows(settings: Settings) -> Rows:
    repository = FeatureRepository(settings)
    return {view.name: dict(repository.online.scan(repository.config, view)) for view in VIEWS}


def _wait_until_skipped(worker: process.Process, reasons: set[str]) -> None:
    """Wait until the worker has skipped a record of `item-features` for each reason."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while {dict(labels)["reason"] for labels, _ in _samples(worker, "reaseq_skipped_records_total")} != reasons:
        assert time.monotonic() < deadline, f"{worker.name} has not skipped each of them"
        time.sleep(0.2)


def _samples(worker: process.Process, name: str) -> Iterator[tuple[tuple[tuple[str, str], ...], float]]:
    scrape = process.http_get(f"http://127.0.0.1:{worker.ports[0]}/metrics") or ""
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            if sample.name == name:
                yield tuple(sorted(sample.labels.items())), sample.value


def _rank(running: Running, user_id: str, candidates: list[str], time_ms: int) -> dict:  # type: ignore[type-arg]
    request = {"user_id": user_id, "candidate_ids": candidates, "time_ms": time_ms}
    url = f"http://127.0.0.1:{running.settings.service.port}/v1/rank"
    post = urllib.request.Request(url, json.dumps(request).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(post, timeout=30) as response:
        return json.load(response)  # type: ignore[no-any-return]
