"""Sampled reconciliation: does the store hold what the topics of feature records say it should?"""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, get_args

import structlog

from features.repository import ReconcileResult
from reaseq.records import FeatureRecord
from reaseq.settings import Settings
from streams.contract import metrics
from streams.contract.topics import Topic
from streams.operations.rebuild import FEATURES, valid
from streams.runtime.kafka_clients import sample

log = structlog.get_logger()

for _topic in FEATURES:  # from the start, so that the first difference is an increase
    for _compare in get_args(ReconcileResult):
        metrics.RECONCILED.labels(_topic.name, _compare)

GRACE_S = 2.0  # between a record's confirmation by its topic and its write to the store


class ReconciledStore(Protocol):
    """What is compared with the topics."""

    def compare(self, records: Sequence[FeatureRecord]) -> list[ReconcileResult]: ...

    def write(self, records: Sequence[FeatureRecord]) -> object: ...


def reconcile(settings: Settings, store: ReconciledStore, records: int, generator: random.Random) -> dict[str, Counter[str]]:
    """Compare about so many records of each topic with the store; by topic, how many there are of each result.

    A record in the topic is the truth of its time, so the store is right with the same or a newer one (`ahead`). Where it is
    `behind`, a write was lost; the record is written again. Raises StoreUnavailable.
    """
    return {topic.name: _reconcile(settings, store, topic, records, generator) for topic in FEATURES}


def _reconcile(
    settings: Settings, store: ReconciledStore, topic: Topic, records: int, generator: random.Random
) -> Counter[str]:
    sampled = valid(settings, topic, sample(settings.kafka, topic, records, generator), Counter())
    found = {message.key: message.body for message in sampled}  # the last of each key
    held = dict(zip(found, store.compare(list(found.values())), strict=True))
    if late := [key for key, result in held.items() if result == "behind"]:
        time.sleep(GRACE_S)
        held |= zip(late, store.compare([found[key] for key in late]), strict=True)
        store.write([found[key] for key in late if held[key] == "behind"])
    for key, result in held.items():
        metrics.RECONCILED.labels(topic.name, result).inc()
        if result in ("behind", "different"):
            log.warning("store_differs", topic=topic.name, key=key, result=result)
    return Counter(held.values())


class Reconciler:
    """Reconciles every now and then, in a thread of its own."""

    def __init__(self, settings: Settings, store: ReconciledStore) -> None:
        self._settings = settings
        self._store = store
        self._generator = random.Random()  # noqa: S311  which records are looked at is no secret
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(self._settings.worker.reconcile_interval_s)
            try:
                reconcile(self._settings, self._store, self._settings.worker.reconcile_records, self._generator)
            except Exception as error:  # a broker or a store that is away is somebody else's to tell
                log.warning("not_reconciled", error=str(error))
