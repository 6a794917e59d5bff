"""Filling the online store from the compacted topics, which are the truth: when it is new to them, or was emptied."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from typing import Protocol

import structlog

from reaseq.errors import InvalidRecord
from reaseq.records import FeatureRecord
from reaseq.settings import Settings
from streams.kafka import held_records, read_all
from streams.messages import Decoder
from streams.replay import at_rate
from streams.topics import ITEM_FEATURES, USER_FEATURES, Topic

log = structlog.get_logger()

FEATURES = (ITEM_FEATURES, USER_FEATURES)


class Store(Protocol):
    """What is filled."""

    def write(self, records: list[FeatureRecord]) -> object: ...

    def filling(self) -> AbstractContextManager[None]: ...


def records_to_read(settings: Settings) -> int:
    """How many records a rebuild has to read."""
    return sum(held_records(settings.kafka, topic) for topic in FEATURES)


def rebuild(
    settings: Settings,
    store: Store,
    rate_records_per_s: float = float("inf"),
    progress: Callable[[int], None] = lambda read: None,
) -> Counter[str]:
    """Write every record of the topics to the store, at most so many a second; counts what was `written` and `refused`.

    The stream and the readers may go on meanwhile: the store keeps what is newer. Raises StoreUnavailable, after which it is to
    be done again; that does no harm.
    """
    counts: Counter[str] = Counter()
    with store.filling():
        for page in at_rate(chain.from_iterable(_records(settings, topic, counts) for topic in FEATURES), rate_records_per_s):
            store.write(page)
            counts["written"] += len(page)
            progress(len(page))
    return counts


def _records(settings: Settings, topic: Topic, counts: Counter[str]) -> Iterator[FeatureRecord]:
    decoder = Decoder(topic, settings.guard.future_limit_s)
    for raw in read_all(settings.kafka, topic):
        try:
            record = decoder.decode(raw, raw.timestamp_ms).body
        except InvalidRecord as error:
            log.warning("refused", topic=topic.name, partition=raw.partition, offset=raw.offset, error=str(error))
            counts["refused"] += 1
        else:
            if record is not None:
                yield record
