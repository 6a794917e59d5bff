"""State of the running system: lag, throughput and freshness."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from reaseq.settings import Settings
from streams.delivery.topics import EVENT_DELTAS, EVENTS, FEATURE_TOPICS, ITEM_FEATURES, ITEMS
from streams.runtime.kafka.lag import Lag, lags
from streams.runtime.roles import consumer_group

SOURCES = (ITEMS, EVENTS, EVENT_DELTAS, *FEATURE_TOPICS)
RATE_WINDOW_S = 1.0
FRESHNESS = "reaseq_freshness_seconds"

Buckets = Counter[tuple[str, float]]  # records by (stage, upper bound in seconds), cumulative over the bounds


@dataclass(frozen=True)
class TopicStatus:
    """The state of one topic for one consumer group."""

    name: str
    group: str
    records: int  # in the topic
    lag: int  # records that the group has not committed
    acknowledged: int  # offsets that the group has committed since the topic exists
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
        rate = (lag.committed - before.get((group, name), lag).committed) / seconds
        found.append(TopicStatus(name, group, lag.records, lag.uncommitted, lag.committed, round(rate, 1)))
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
    return bucket_quantiles(sum(map(freshness_buckets, scrapes), Counter()), quantiles)


def freshness_buckets(scrape: str) -> Buckets:
    """A worker's records by stage and upper bound of their freshness in seconds, cumulative as Prometheus counts them.

    Raises ValueError if the text is not metrics.
    """
    return Counter(
        {
            (sample.labels["stage"], float(sample.labels["le"])): int(sample.value)
            for family in text_string_to_metric_families(scrape)
            for sample in family.samples
            if sample.name == f"{FRESHNESS}_bucket"
        }
    )


def bucket_quantiles(buckets: Buckets, quantiles: Sequence[float]) -> dict[str, list[float]]:
    """Quantiles by stage, each as the upper bound of its bucket. Leaves out stages without records."""
    found = {}
    for stage in {stage for stage, _ in buckets}:
        counts = sorted((bound, count) for (of, bound), count in buckets.items() if of == stage)
        if total := counts[-1][1]:
            found[stage] = [next(bound for bound, count in counts if count >= q * total) for q in quantiles]
    return found


def _lags(settings: Settings) -> dict[tuple[str, str], Lag]:
    """The lag by (group, topic)."""
    kafka = settings.kafka
    stream, reasoning = consumer_group(kafka, "stream"), consumer_group(kafka, "reasoning")
    found = {(stream, name): lag for name, lag in lags(kafka, stream, SOURCES).items()}
    for name, lag in lags(kafka, reasoning, [ITEM_FEATURES]).items():
        if lag.committed:  # else no reasoning worker has ever run
            found[reasoning, name] = lag
    return found
