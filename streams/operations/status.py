"""State of the running system: lag, throughput and freshness."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from reaseq.settings import Settings
from streams.delivery.topics import EVENTS, ITEM_FEATURES, ITEMS, USER_FEATURES
from streams.runtime.kafka.lag import Lag, lags
from streams.runtime.roles import consumer_group

SOURCES = (ITEMS, EVENTS, ITEM_FEATURES, USER_FEATURES)
RATE_WINDOW_S = 1.0
FRESHNESS = "reaseq_freshness_seconds"


@dataclass(frozen=True)
class TopicStatus:
    """The state of one topic for one consumer group."""

    name: str
    group: str
    records: int  # in the topic
    lag: int  # records that the group has not committed
    acknowledged_per_s: float


def topics_status(settings: Settings) -> list[TopicStatus]:
    """The status of every source topic; rates are measured over `RATE_WINDOW_S`.

    Includes the topic of the reasoning workers' own group if there has ever been one.
    """
    before, started = _lags(settings), time.monotonic()
    time.sleep(RATE_WINDOW_S)
    after, seconds = _lags(settings), time.monotonic() - started
    found = []
    for (group, name), lag in after.items():
        earlier = before.get((group, name), lag)
        acknowledged = lag.records - lag.uncommitted - earlier.records + earlier.uncommitted
        found.append(TopicStatus(name, group, lag.records, lag.uncommitted, round(acknowledged / seconds, 1)))
    return found


def wait_until_idle(settings: Settings) -> None:
    """Return once two checks in a row find no lag in any group.

    Stages write topics that other stages read, so the last record of a topic may show up after the first check.
    """
    idle = 0
    while idle < 2:
        idle = 0 if any(topic.lag for topic in topics_status(settings)) else idle + 1


def freshness_s(scrapes: Sequence[str], quantiles: Sequence[float]) -> dict[str, list[float]]:
    """Quantiles of freshness by stage over all scraped workers, each as the upper bound of its histogram bucket."""
    buckets: dict[str, Counter[float]] = {}
    for scrape in scrapes:
        for family in text_string_to_metric_families(scrape):
            for sample in family.samples:
                if sample.name == f"{FRESHNESS}_bucket":
                    bound = float(sample.labels["le"])
                    buckets.setdefault(sample.labels["stage"], Counter())[bound] += int(sample.value)
    return {
        stage: [next(bound for bound in sorted(counts) if counts[bound] >= q * max(counts.values())) for q in quantiles]
        for stage, counts in buckets.items()
        if max(counts.values())
    }


def _lags(settings: Settings) -> dict[tuple[str, str], Lag]:
    """The lag by (group, topic)."""
    kafka = settings.kafka
    stream, reasoning = consumer_group(kafka, "stream"), consumer_group(kafka, "reasoning")
    found = {(stream, name): lag for name, lag in lags(kafka, stream, SOURCES).items()}
    for name, lag in lags(kafka, reasoning, [ITEM_FEATURES]).items():
        if lag.has_commits:  # else no reasoning worker has ever run
            found[reasoning, name] = lag
    return found
