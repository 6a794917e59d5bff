"""The last hour of the stream, for the console's charts: observations of the stream at a fixed interval, kept in memory.

A service that has just started knows nothing of the time before, and each replica keeps its own hour. Prometheus keeps the
same numbers for longer.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from reaseq.errors import ReaSeqError
from serving.console.stream import Observation, StreamMonitor
from streams.operations.status import Buckets, TopicStatus, bucket_quantiles

log = structlog.get_logger()

INTERVAL_S = 15.0
SAMPLES = int(3600 / INTERVAL_S)
QUANTILE = 0.99
FRESHNESS_LIMIT_S = 3600.0  # shown for anything above the last finite bucket

Values = dict[str, float]  # by topic or stage


@dataclass(frozen=True)
class Series:
    """One line of a chart: a value for each time, None where there is none."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class StreamHour:
    """Up to an hour of samples, oldest first. A sample has no values if the brokers did not answer.

    Rates and freshness cover the time since the sample before.
    """

    interval_s: float
    times_ms: tuple[int, ...]
    acknowledged_per_s: tuple[Series, ...]  # by topic
    lag: tuple[Series, ...]  # records, by topic
    freshness_p99_s: tuple[Series, ...]  # by stage: upper bounds of buckets; None if nothing became servable
    dead_letters: tuple[Series, ...]  # open ones, by stage


@dataclass(frozen=True)
class Sample:
    """What the charts show of one moment; None if the brokers did not answer."""

    time_ms: int
    acknowledged_per_s: Values | None = None
    lag: Values | None = None
    freshness_p99_s: Values | None = None
    dead_letters: Values | None = None


class StreamHistory:
    """Samples the stream while the application runs. Anyone may read at any time."""

    def __init__(self, monitor: StreamMonitor) -> None:
        self._monitor = monitor
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._before: Observation | None = None
        self._buckets: dict[str, Buckets] = {}  # of each worker, when it last answered
        self._stopped = threading.Event()

    @asynccontextmanager
    async def sampling(self, app: object) -> AsyncIterator[None]:
        """The lifespan of an application: samples until the application stops."""
        threading.Thread(target=self._sample_until_stopped, name="stream-history", daemon=True).start()
        yield
        self._stopped.set()

    def read(self) -> StreamHour:
        """The samples so far."""
        samples = list(self._samples)
        return StreamHour(
            INTERVAL_S,
            tuple(sample.time_ms for sample in samples),
            _build_series([sample.acknowledged_per_s for sample in samples]),
            _build_series([sample.lag for sample in samples]),
            _build_series([sample.freshness_p99_s for sample in samples]),
            _build_series([sample.dead_letters for sample in samples], absent=0),
        )

    def sample(self) -> None:
        """Keep what the stream looks like now, or that the brokers do not answer."""
        try:
            observed = self._monitor.observe()
        except Exception as error:  # whatever it is, the charts get a gap, and the next sample is due as usual
            if not isinstance(error, ReaSeqError):
                log.exception("stream_not_sampled")
            self._samples.append(Sample(int(time.time() * 1000)))
            return
        if observed is not self._before:
            self._samples.append(self._build_sample(observed))
            self._before = observed

    def _sample_until_stopped(self) -> None:
        while not self._stopped.is_set():
            self.sample()
            self._stopped.wait(INTERVAL_S)

    def _build_sample(self, observed: Observation) -> Sample:
        health, recent = observed.health, self._count_recent(observed)
        dead_letters: Counter[str] = Counter()
        for group in health.dead_letters:
            dead_letters[group.stage] += group.count
        return Sample(
            health.observed_ms,
            self._measure_rates(health.observed_ms, health.topics),
            {_name(topic, health.topics): topic.lag for topic in health.topics},
            {stage: min(p99, FRESHNESS_LIMIT_S) for stage, [p99] in bucket_quantiles(recent, [QUANTILE]).items()},
            dict(dead_letters),
        )

    def _measure_rates(self, observed_ms: int, topics: Sequence[TopicStatus]) -> Values:
        """Records acknowledged per second since the observation before; none if there was none."""
        if self._before is None:
            return {}
        seconds = (observed_ms - self._before.health.observed_ms) / 1000
        before = {(topic.group, topic.name): topic.acknowledged for topic in self._before.health.topics}
        return {
            _name(topic, topics): round(max(topic.acknowledged - before[topic.group, topic.name], 0) / seconds, 1)
            for topic in topics
            if (topic.group, topic.name) in before
        }

    def _count_recent(self, observed: Observation) -> Buckets:
        """Freshness of what became servable since the observation before: counters start again at 0 with their worker."""
        recent: Buckets = Counter()
        for address, buckets in observed.freshness.items():
            known = self._buckets.get(address, buckets if self._before is None else Counter())
            restarted = any(count < known[bucket] for bucket, count in buckets.items())
            recent += buckets if restarted else buckets - known
        shown = {worker.address for worker in observed.health.workers}
        latest = {**self._buckets, **observed.freshness}
        self._buckets = {address: latest[address] for address in shown & latest.keys()}
        return recent


def _name(topic: TopicStatus, topics: Sequence[TopicStatus]) -> str:
    """The topic's name; with its group if several groups read it."""
    readers = sum(other.name == topic.name for other in topics)
    return topic.name if readers == 1 else f"{topic.name} ({topic.group})"


def _build_series(samples: Sequence[Values | None], absent: float | None = None) -> tuple[Series, ...]:
    """A series for each name in any of the samples; `absent` is the value where a sample lacks the name."""
    names = dict.fromkeys(name for sample in samples for name in sample or ())
    return tuple(
        Series(name, tuple(None if sample is None else sample.get(name, absent) for sample in samples)) for name in names
    )
