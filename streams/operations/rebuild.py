"""Filling the online store from the compacted topics, which are the truth: when it is new to them, or was emptied."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import structlog

from reaseq.errors import InvalidRecord
from reaseq.records import FeatureRecord
from reaseq.settings import Settings
from streams.contract.messages import Decoder, Message, RawRecord
from streams.contract.topics import ITEM_FEATURES, USER_FEATURES, Topic
from streams.operations.replay import at_rate
from streams.runtime.kafka_clients import lags, read_all

log = structlog.get_logger()

FEATURES = (ITEM_FEATURES, USER_FEATURES)


class RebuildTarget(Protocol):
    """What is filled."""

    def write(self, records: list[FeatureRecord]) -> object: ...

    def rebuilding(self) -> AbstractContextManager[None]: ...


def records_to_read(settings: Settings) -> int:
    """How many records a rebuild has to read."""
    return sum(lag.held for lag in lags(settings.kafka, settings.kafka.group_id, FEATURES).values())


def rebuild(
    settings: Settings,
    store: RebuildTarget,
    rate_records_per_s: float = float("inf"),
    progress: Callable[[int], None] = lambda read: None,
) -> Counter[str]:
    """Write every record of the topics to the store, at most so many a second; counts what was `written` and `rejected`.

    The stream and the readers may go on meanwhile: the store keeps what is newer. Raises StoreUnavailable, after which it is to
    be done again; that does no harm.
    """
    counts: Counter[str] = Counter()
    with store.rebuilding():
        for page in at_rate(_records(settings, counts), rate_records_per_s):
            store.write(page)
            counts["written"] += len(page)
            progress(len(page))
    return counts


def valid(settings: Settings, topic: Topic, raws: Iterable[RawRecord], counts: Counter[str]) -> Iterator[Message]:
    """The messages of a topic of features that hold a record; what is none is logged and counted as `rejected`."""
    decoder = Decoder(topic, settings.guard.future_limit_s)
    for raw in raws:
        try:
            message = decoder.decode(raw, raw.timestamp_ms)
        except InvalidRecord as error:
            log.warning("rejected", topic=topic.name, partition=raw.partition, offset=raw.offset, error=str(error))
            counts["rejected"] += 1
        else:
            if message.body is not None:
                yield message


def _records(settings: Settings, counts: Counter[str]) -> Iterator[FeatureRecord]:
    for topic in FEATURES:
        for message in valid(settings, topic, read_all(settings.kafka, topic), counts):
            yield message.body
