"""Rebuild of the online store from the compacted feature topics, which are the source of truth."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import chain
from typing import Protocol

from pydantic import SecretStr

from features.repository import FeatureRepository
from reaseq.records import FeatureRecord, Version
from reaseq.settings import Settings
from streams.delivery import metrics
from streams.delivery.tolerant_decoder import TolerantDecoder
from streams.delivery.topics import FEATURE_TOPICS, TOPIC_BY_MESSAGE, Topic
from streams.operations.replay import at_rate
from streams.runtime.kafka.lag import lags
from streams.runtime.kafka.reader import Ends, read_all, read_ends

LOST = "lost"  # a result of reconciliation: the store lost a record that this process wrote
TAILS_RECORDS = (1_000, 30_000, None)  # of each partition; None is all of it


class RebuildTarget(Protocol):
    """The store to rebuild."""

    @property
    def shards(self) -> range: ...

    def shard_of(self, entity_id: str) -> int: ...

    def write(self, records: list[FeatureRecord]) -> object: ...

    def rebuilding(self, shards: Collection[int]) -> AbstractContextManager[None]: ...


def records_to_read(settings: Settings) -> int:
    """The number of records in the feature topics, all of which a rebuild reads."""
    return sum(lag.records for lag in lags(settings.kafka, settings.kafka.group_id, FEATURE_TOPICS).values())


def rebuild(
    settings: Settings,
    store: RebuildTarget,
    rate_records_per_s: float = float("inf"),
    progress: Callable[[int], None] = lambda records: None,
    shards: Collection[int] | None = None,
) -> Counter[str]:
    """Write every record of the feature topics to the store, or those of some shards, at most `rate_records_per_s` per second.

    The stream and the readers may keep running: the store keeps newer records. If this store replaces another one, the stream
    may go on there until it is closed to writers, and what it produced meanwhile is written as well. Calls `progress` with the
    number of records of each step. Returns the number of records `written` and `rejected`. Raises StoreUnavailable; run the
    rebuild again then.
    """
    counts: Counter[str] = Counter()
    filled = store.shards if shards is None else shards

    def fill(since: Ends | None) -> None:
        for page in at_rate(_read_records(settings, counts, since), rate_records_per_s):
            own = [record for record in page if store.shard_of(record.entity_id) in filled]
            store.write(own)
            counts["written"] += len(own)
            progress(len(page))

    with store.rebuilding(filled):
        started = read_ends(settings.kafka, FEATURE_TOPICS)
        fill(since=None)
        if replaced_url := settings.store.replaced_redis_url:
            caught_up = read_ends(settings.kafka, FEATURE_TOPICS)
            fill(since=started)  # so that little is left once the stream waits
            _open_store(settings, replaced_url).close_to_writers()
            fill(since=caught_up)
    return counts


def _open_store(settings: Settings, redis_url: SecretStr) -> FeatureRepository:
    there = settings.model_copy(deep=True)
    there.store.redis_url = redis_url
    return FeatureRepository(there)


def read_lost(settings: Settings, kind: type[FeatureRecord], lost: Mapping[str, Version]) -> Iterator[list[FeatureRecord]]:
    """Records of a feature topic to write again, because the store has lost those of the given ids and versions.

    Lost writes are usually the last ones, so this reads the end of the topic, and more of it until it has them all. It yields
    every record there, because others may be lost as well. Raises BrokerUnavailable.
    """
    topic = TOPIC_BY_MESSAGE[kind]
    decoder, missing = TolerantDecoder(topic), dict(lost)
    metrics.RECONCILED.labels(topic.name, LOST).inc(len(lost))
    for last_records in TAILS_RECORDS:
        for records in _read_pages(settings, decoder, topic, last_records):
            for record in records:
                if record.entity_id in missing and record.version >= missing[record.entity_id]:
                    del missing[record.entity_id]
            yield records
        if not missing:
            return


def _read_records(settings: Settings, counts: Counter[str], since: Ends | None) -> Iterator[FeatureRecord]:
    for topic in FEATURE_TOPICS:
        decoder = TolerantDecoder(topic)
        yield from chain.from_iterable(_read_pages(settings, decoder, topic, since=since))
        counts["rejected"] += decoder.skipped


def _read_pages(
    settings: Settings, decoder: TolerantDecoder, topic: Topic, last_records: int | None = None, since: Ends | None = None
) -> Iterator[list[FeatureRecord]]:
    """The valid records of a topic, or the last ones of each partition, or those behind earlier ends, in pages."""
    for raws in at_rate(read_all(settings.kafka, topic, last_records, since), float("inf")):
        yield decoder.decode_bodies(raws)
