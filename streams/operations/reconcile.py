"""Sampled reconciliation: checks that the online store has the records of the feature topics, and repairs lost writes."""

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, get_args

import structlog

from features.repository import ReconcileResult
from reaseq.errors import StoreUnavailable
from reaseq.records import FeatureRecord
from reaseq.settings import Settings
from streams.delivery import metrics
from streams.delivery.tolerant_decoder import TolerantDecoder
from streams.delivery.topics import FEATURE_TOPICS, Topic
from streams.operations.rebuild import LOST
from streams.runtime.kafka.reader import read_sample

log = structlog.get_logger()

for _topic in FEATURE_TOPICS:  # so that every series starts at 0 and the first difference shows as an increase
    for _result in (*get_args(ReconcileResult), LOST):
        metrics.RECONCILED.labels(_topic.name, _result)

GRACE_S = 2.0  # a record is confirmed by its topic before it is written to the store


class ReconciledStore(Protocol):
    """The store that is compared with the topics."""

    def shard_of(self, entity_id: str) -> int: ...

    def compare(self, records: Sequence[FeatureRecord]) -> list[ReconcileResult]: ...

    def write(self, records: Sequence[FeatureRecord]) -> object: ...


def reconcile(settings: Settings, store: ReconciledStore, records: int, generator: random.Random) -> dict[str, Counter[str]]:
    """Compare a sample of about `records` records of each topic with the store. Returns the counts of each result by topic.

    The store is right if it has the same record (`equal`) or a newer one (`ahead`). If it is `behind`, a write was lost, and
    the record is written again. Raises StoreUnavailable, after it has compared the shards that answer.
    """
    return {topic.name: _reconcile(settings, store, topic, records, generator) for topic in FEATURE_TOPICS}


def _reconcile(
    settings: Settings, store: ReconciledStore, topic: Topic, records: int, generator: random.Random
) -> Counter[str]:
    sample: list[FeatureRecord] = TolerantDecoder(topic).decode_bodies(read_sample(settings.kafka, topic, records, generator))
    newest = {record.entity_id: record for record in sample}  # the last record of each entity
    by_shard: dict[int, dict[str, FeatureRecord]] = {}
    for entity_id, record in newest.items():
        by_shard.setdefault(store.shard_of(entity_id), {})[entity_id] = record
    counts, unavailable = Counter[str](), None
    for shard in sorted(by_shard):
        try:
            counts += _reconcile_shard(store, topic, by_shard[shard])
        except StoreUnavailable as error:
            unavailable = error
    if unavailable:
        raise unavailable
    return counts


def _reconcile_shard(store: ReconciledStore, topic: Topic, newest: Mapping[str, FeatureRecord]) -> Counter[str]:
    """Compare the newest records of the entities, which are on one shard, with the store."""
    results = dict(zip(newest, store.compare(list(newest.values())), strict=True))
    if behind := [key for key, result in results.items() if result == "behind"]:
        time.sleep(GRACE_S)
        results |= zip(behind, store.compare([newest[key] for key in behind]), strict=True)
        store.write([newest[key] for key in behind if results[key] == "behind"])
    for key, result in results.items():
        metrics.RECONCILED.labels(topic.name, result).inc()
        if result in ("behind", "different"):
            log.warning("store_differs", topic=topic.name, result=result, **({} if topic.personal else {"key": key}))
    return Counter(results.values())


class Reconciler:
    """Reconciles every `reconcile_interval_s` in a background thread."""

    def __init__(self, settings: Settings, store: ReconciledStore) -> None:
        self._settings = settings
        self._store = store
        self._generator = random.Random()  # noqa: S311  the choice of records is not a secret
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(self._settings.worker.reconcile_interval_s)
            try:
                reconcile(self._settings, self._store, self._settings.worker.reconcile_records, self._generator)
            except Exception as error:  # an unavailable broker or store is reported elsewhere
                log.warning("reconcile_failed", error=str(error))
