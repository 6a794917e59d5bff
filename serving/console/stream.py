"""How the stream is doing: lag, rates, freshness, dead letters, and what each worker says of itself."""

import socket
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from reaseq.errors import BrokerUnavailable, ReaSeqError
from reaseq.settings import Settings
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.operations.status import TopicStatus, freshness_s, topics_status

KEPT_S = 2.0
WORKER_TIMEOUT_S = 2.0
QUANTILES = (0.5, 0.99)


@dataclass(frozen=True)
class Freshness:
    """From a record's production to its servability in one stage: upper bounds, since the workers started."""

    stage: str
    p50_s: float
    p99_s: float


@dataclass(frozen=True)
class DeadLetters:
    """How many open letters bear a reason."""

    stage: str
    reason: str
    letters: int


@dataclass(frozen=True)
class Worker:
    """One worker at its address: ready, or what it says is wrong."""

    address: str
    trouble: str  # empty: ready


@dataclass(frozen=True)
class StreamHealth:
    """The stream as it was at a moment."""

    seen_ms: int
    topics: tuple[TopicStatus, ...]
    freshness: tuple[Freshness, ...]
    dead_letters: tuple[DeadLetters, ...]
    workers: tuple[Worker, ...]


class StreamWatch:
    """Looks at the stream, and tells everybody who asks within a while what it saw. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._found: StreamHealth | ReaSeqError = BrokerUnavailable("nobody has looked yet")
        self._look_again_s = 0.0

    def health(self) -> StreamHealth:
        """The stream now, or a little ago. Raises BrokerUnavailable or DeliveryError where the brokers do not tell."""
        # While somebody looks, the others are told what was found last, if anything was.
        if self._lock.acquire(blocking=not self._look_again_s):
            try:
                if time.monotonic() >= self._look_again_s:
                    self._look_again()
            finally:
                self._lock.release()
        if isinstance(self._found, StreamHealth):
            return self._found
        raise self._found

    def _look_again(self) -> None:
        started, took_s = time.monotonic(), 0.0
        try:
            self._found = self._look()
            took_s = time.monotonic() - started
        except ReaSeqError as error:
            self._found = error
        self._look_again_s = time.monotonic() + max(KEPT_S, took_s)  # brokers have at least as long a rest

    def _look(self) -> StreamHealth:
        letters = DeadLetterQueue(self._settings.kafka, self._settings.guard.quarantine_attempts).counts()
        workers, scrapes = self._workers()
        return StreamHealth(
            seen_ms=int(time.time() * 1000),
            topics=tuple(topics_status(self._settings)),
            freshness=tuple(Freshness(stage, *bounds) for stage, bounds in sorted(freshness_s(scrapes, QUANTILES).items())),
            dead_letters=tuple(DeadLetters(stage, reason, count) for (stage, reason), count in letters.most_common()),
            workers=tuple(workers),
        )

    def _workers(self) -> tuple[list[Worker], list[str]]:
        """What each worker says of itself, and the metrics of those that answer."""
        workers, scrapes = [], []
        with httpx.Client(timeout=WORKER_TIMEOUT_S, trust_env=False) as http:
            for name in self._settings.service.worker_urls:
                for url in _addresses(name):
                    try:
                        ready = http.get(f"{url}/readyz")
                        scrape = http.get(f"{url}/metrics").text
                        freshness_s([scrape], QUANTILES)
                    except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
                        workers.append(Worker(url, f"does not answer ({type(error).__name__})"))
                    else:
                        scrapes.append(scrape)
                        workers.append(Worker(url, "" if ready.is_success else ready.text.strip()))
        return workers, scrapes


def _addresses(url: str) -> list[str]:
    """The URL once for each address that its host stands for; itself where there is none, or TLS, which needs the name."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return [url]
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return [url]
    return [f"{parts.scheme}://{host}:{parts.port or 80}" for host in sorted({str(address[4][0]) for address in found})]
