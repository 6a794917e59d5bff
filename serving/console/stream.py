"""Health of the stream: lag, rates, freshness, dead letters, and the readiness of each worker."""

import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from reaseq.errors import BrokerUnavailable, ReaSeqError
from reaseq.settings import Settings
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.operations.status import Buckets, TopicStatus, bucket_quantiles, freshness_buckets, topics_status

CACHED_S = 2.0
WORKER_TIMEOUT_S = 2.0
QUANTILES = (0.5, 0.99)


@dataclass(frozen=True)
class StageFreshness:
    """Time from a record's production to its servability in one stage, since the workers started.

    Values are upper bounds of histogram buckets, None above the last finite bucket.
    """

    stage: str
    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True)
class DeadLetterCount:
    """Open dead letters of one stage and reason."""

    stage: str
    reason: str
    count: int


@dataclass(frozen=True)
class WorkerStatus:
    """One worker: ready, or what is wrong."""

    address: str
    problem: str  # empty if ready


@dataclass(frozen=True)
class StreamHealth:
    """The stream at one moment."""

    observed_ms: int
    topics: tuple[TopicStatus, ...]
    freshness: tuple[StageFreshness, ...]
    dead_letters: tuple[DeadLetterCount, ...]
    workers: tuple[WorkerStatus, ...]


@dataclass(frozen=True)
class Observation:
    """The health, and the counters that its freshness was computed from, by address of the worker."""

    health: StreamHealth
    freshness: Mapping[str, Buckets]


class StreamMonitor:
    """Observes the stream on request and caches the result, so that many viewers cost as much as one. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._latest: Observation | ReaSeqError = BrokerUnavailable("the stream has not been observed yet")
        self._expires_s = 0.0

    def observe(self) -> Observation:
        """The current or the cached observation. Raises BrokerUnavailable or DeliveryError if the brokers do not answer."""
        # While one thread observes, the others return the cached result. Only the very first observation is waited for.
        if self._lock.acquire(blocking=not self._expires_s):
            try:
                if time.monotonic() >= self._expires_s:
                    self._refresh()
            finally:
                self._lock.release()
        if isinstance(self._latest, Observation):
            return self._latest
        raise self._latest

    def _refresh(self) -> None:
        started, took_s = time.monotonic(), 0.0
        try:
            self._latest = self._observe()
            took_s = time.monotonic() - started
        except ReaSeqError as error:
            self._latest = error
        self._expires_s = time.monotonic() + max(CACHED_S, took_s)  # so that at most half of the time is spent observing

    def _observe(self) -> Observation:
        counts = DeadLetterQueue(self._settings.kafka, self._settings.guard.quarantine_attempts).counts()
        workers, freshness = _ask_workers(self._settings.service.worker_urls)
        health = StreamHealth(
            observed_ms=int(time.time() * 1000),
            topics=tuple(topics_status(self._settings)),
            freshness=_build_freshness(freshness),
            dead_letters=tuple(DeadLetterCount(stage, reason, count) for (stage, reason), count in counts.most_common()),
            workers=tuple(workers),
        )
        return Observation(health, freshness)


def _ask_workers(urls: Sequence[str]) -> tuple[list[WorkerStatus], dict[str, Buckets]]:
    """The status of each worker, and the freshness of those that answer."""
    workers, freshness = [], {}
    with httpx.Client(timeout=WORKER_TIMEOUT_S, trust_env=False) as http:
        for address in [address for url in urls for address in _resolve(url)]:
            try:
                ready = http.get(f"{address}/readyz")
                freshness[address] = freshness_buckets(http.get(f"{address}/metrics").text)
            except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
                workers.append(WorkerStatus(address, f"does not answer ({type(error).__name__})"))
            else:
                workers.append(WorkerStatus(address, "" if ready.is_success else ready.text.strip()))
    return workers, freshness


def _build_freshness(freshness: Mapping[str, Buckets]) -> tuple[StageFreshness, ...]:
    buckets: Buckets = sum(freshness.values(), Counter())
    bounds = {
        stage: [bound if math.isfinite(bound) else None for bound in quantiles]
        for stage, quantiles in bucket_quantiles(buckets, QUANTILES).items()
    }
    return tuple(StageFreshness(stage, *quantiles) for stage, quantiles in sorted(bounds.items()))


def _resolve(url: str) -> list[str]:
    """The URL at each address of its host. Unchanged if the name does not resolve, or for TLS, which needs the name."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return [url]
    try:
        addresses = socket.getaddrinfo(parts.hostname, parts.port or 80, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return [url]
    hosts = sorted({str(address[4][0]) for address in addresses})
    return [f"{parts.scheme}://{host}:{parts.port or 80}" for host in hosts]
