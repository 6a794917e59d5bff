"""How the running system is doing: lag, rates, freshness, dead letters."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from reaseq.settings import Settings
from streams.contract.topics import EVENTS, ITEM_FEATURES, ITEMS, USER_FEATURES
from streams.runtime.kafka_clients import Lag, consumer_group, lags

SOURCES = (ITEMS, EVENTS, ITEM_FEATURES, USER_FEATURES)
RATE_WINDOW_S = 1.0
FRESHNESS = "reaseq_freshness_seconds"


@dataclass(frozen=True)
class TopicStatus:
    """One topic and group: records it holds, records the group has not acknowledged, and acknowledged per second just now."""

    name: str
    group: str
    held: int
    lag: int
    acknowledged_per_s: float


def topics_status(settings: Settings) -> list[TopicStatus]:
    """Every source topic, and what the group of reasoning workers follows where there is one, over RATE_WINDOW_S."""
    before, started = _lags(settings), time.monotonic()
    time.sleep(RATE_WINDOW_S)
    after, seconds = _lags(settings), time.monotonic() - started
    found = []
    for (group, name), lag in after.items():
        earlier = before.get((group, name), lag)
        acknowledged = lag.held - lag.unacknowledged - earlier.held + earlier.unacknowledged
        found.append(TopicStatus(name, group, lag.held, lag.unacknowledged, round(acknowledged / seconds, 1)))
    return found


def wait_until_idle(settings: Settings) -> None:
    """Return when nothing is behind. What a stage makes of the last record of a topic that it reads itself may come late, so
    that is looked at twice."""
    idle = 0
    while idle < 2:
        idle = 0 if any(topic.lag for topic in topics_status(settings)) else idle + 1


def _lags(settings: Settings) -> dict[tuple[str, str], Lag]:
    kafka = settings.kafka
    stream, reasoning = consumer_group(kafka, "stream"), consumer_group(kafka, "reasoning")
    found = {(stream, name): lag for name, lag in lags(kafka, stream, SOURCES).items()}
    for name, lag in lags(kafka, reasoning, [ITEM_FEATURES]).items():
        if lag.begun:  # else no worker of that role has ever run
            found[reasoning, name] = lag
    return found


def freshness_s(scrapes: Sequence[str], quantiles: Sequence[float]) -> dict[str, list[float]]:
    """By stage, the upper bounds of the histogram buckets in which the quantiles fall, over all workers."""
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
