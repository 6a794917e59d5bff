"""Seconds until the ranking service is ready, on real Kafka and Redis, after a million purchases from catalogs of two sizes.

The store has the items and what the stream keeps of the purchases; the topic `events` has the purchases themselves. The service
reads its tables from the store, then the last minutes of the topics of features, here as many records as ten minutes of 15
events/s leave. Beside it, what reading and decoding the raw events takes, which the service no longer does.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import redis
import torch
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from benchmarks.folded_events import fold_purchases
from features.repository import FeatureRepository
from infra import local, process
from infra.scratch import settings_on_free_ports, start_empty
from reaseq import float16
from reaseq.days import DAY_MS
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.model_artifacts import publish_model
from reaseq.ranker.batch import FEATURES_VERSION
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import engine_files
from reaseq.ranker.item_statistics import fit
from reaseq.ranker.model import Ranker, RankerConfig
from reaseq.records import Event, ItemAggregates, ItemFeatures
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import Settings
from streams.delivery.messages import RawRecord
from streams.delivery.tolerant_decoder import TolerantDecoder
from streams.delivery.topics import EVENTS
from streams.runtime.kafka.producer import Producer
from streams.runtime.kafka.tailer import TopicTailer

CATALOGS = {"10k": 10_000, "100k": 100_000}
PURCHASES = 1_000_000
PURCHASED_DAYS = 120
LATEST_RECORDS = 10 * 60 * 15
READY_TIMEOUT_S = 900.0
SPACE, DIM = "bench", 384

Purchases = list[tuple[str, int]]  # item id, time in ms
T = TypeVar("T")


def run() -> dict[str, Any]:
    """Readiness at each size of the catalog, and the rate at which raw events are read."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="reaseq-bench-") as folder:
        settings = settings_on_free_ports(Path(folder))
        settings.service.port = process.free_port()
        settings.store.redis_timeout_s = 30.0
        os.environ.update(local.environment(settings))
        try:
            store = start_empty(settings)
            _publish_ranker(settings)
            _produce_events(settings, _purchases(max(CATALOGS.values())))
            results = _read_raw_events(settings)
            console.print(results)
            for name, items in CATALOGS.items():
                with console.status(f"filling the store: {items} items"):
                    _fill(settings, store, items)
                figures = _start(settings, items)
                console.print(name, figures)
                results |= {f"{figure}_{name}_items_1m_events": value for figure, value in figures.items()}
            return results
        finally:
            local.stop_all(settings)


def _purchases(items: int) -> Purchases:
    """Purchases in order of time, of which a few items have most."""
    generator = np.random.default_rng(0)
    bought = np.minimum(generator.zipf(1.2, PURCHASES), items) - 1
    now_ms = int(time.time() * 1000)
    times_ms = now_ms - np.sort(generator.integers(0, PURCHASED_DAYS * DAY_MS, PURCHASES))[::-1]
    return [(f"i{item}", time_ms) for item, time_ms in zip(bought.tolist(), times_ms.tolist(), strict=True)]


def _publish_ranker(settings: Settings) -> None:
    torch.manual_seed(0)
    vocabulary = load_vocabulary(settings.knowledge.vocabulary)
    ids = TrainedIds([f"i{number}" for number in range(1000)])
    model = Ranker(RankerConfig(vector_dim=DIM, claims=vocabulary.size, items=len(ids)))
    facts = {"space_id": SPACE, "vector_dim": DIM, "vocabulary": vocabulary.version, "features": FEATURES_VERSION}
    files = engine_files(model, fit([("u", ids.item_ids[:10])]))
    publish_model(settings.models_dir, RANKER, "bench", model, model.config, ids, facts, files)


def _produce_events(settings: Settings, purchases: Purchases) -> None:
    producer = Producer(settings.kafka)
    for page in _pages(list(enumerate(purchases)), 20_000):
        producer.send(_to_event(number, *purchase) for number, purchase in page)
    producer.close()


def _to_event(number: int, item_id: str, time_ms: int) -> Event:
    user_id = f"user-{number % 100_003}"
    return Event(event_id=f"e{number}", user_id=user_id, item_id=item_id, type="purchase", event_time_ms=time_ms)


def _pages(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))


def _read_raw_events(settings: Settings) -> dict[str, float]:
    """How long all raw events take to be read and decoded, as the service did at its start, without counting them."""
    decoder, read = TolerantDecoder(EVENTS, settings.guard.future_limit_s), 0

    def receive(records: Sequence[RawRecord]) -> None:
        nonlocal read
        read += len(decoder.decode_bodies(records))

    started = time.perf_counter()
    tailer = TopicTailer(settings.kafka, EVENTS, receive).start()
    tailer.wait()
    seconds = time.perf_counter() - started
    tailer.stop()
    assert read == PURCHASES, read
    return {"raw_events_read_s": round(seconds, 1), "raw_events_per_s": round(read / seconds)}


def _fill(settings: Settings, store: FeatureRepository, items: int) -> None:
    """Fill the emptied store, and produce the latest records of aggregates."""
    redis.Redis.from_url(settings.store.redis_url.get_secret_value()).flushall()
    with store.rebuilding():
        pass
    generator, now_ms = np.random.default_rng(1), int(time.time() * 1000)
    for numbers in _pages(range(items), 1000):
        vectors = generator.normal(size=(len(numbers), DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        store.write([_to_item(number, vector, now_ms) for number, vector in zip(numbers, vectors, strict=True)])
    rows: list[ItemAggregates] = fold_purchases(_purchases(items))
    for page in _pages(rows, 5000):
        store.write(page)
    producer = Producer(settings.kafka)
    producer.send(sorted(rows, key=lambda row: row.event_time_ms)[-LATEST_RECORDS:])
    producer.close()


def _to_item(number: int, vector: np.ndarray, now_ms: int) -> ItemFeatures:
    return ItemFeatures(
        item_id=f"i{number}",
        event_time_ms=now_ms,
        listed_ms=now_ms - PURCHASED_DAYS * DAY_MS,
        status="text",
        title=f"item {number}",
        price=1.0,
        space_id=SPACE,
        vector=float16.pack(vector),
    )


def _start(settings: Settings, items: int) -> dict[str, float]:
    """Start the service, and stop it once it is ready."""
    started = time.perf_counter()
    service = local.start_ranker(settings)
    url = f"http://{process.LOOPBACK}:{settings.service.port}"
    process.wait_until(lambda: process.http_get(f"{url}/readyz") is not None, READY_TIMEOUT_S, "ranker", service)
    seconds = time.perf_counter() - started
    scraped = text_string_to_metric_families(process.http_get(f"{url}/metrics") or "")
    values = {sample.name: sample.value for family in scraped for sample in family.samples}
    assert values["reaseq_item_table_items"] == items, values
    process.stop(settings.run_dir, "ranker")
    return {
        "ready_s": round(seconds, 1),
        "aggregate_bytes_per_item": round(values["reaseq_aggregate_table_bytes"] / items),
        "resident_mib": round(values["process_resident_memory_bytes"] / 2**20),
    }
