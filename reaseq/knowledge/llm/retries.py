"""Timeouts, retries and the circuit breaker of an endpoint."""

import time
from dataclasses import dataclass

from reaseq.backoff import Backoff


@dataclass(frozen=True)
class Timeouts:
    """Limits for one attempt: to connect, and to receive the whole answer."""

    connect_s: float = 5.0
    answer_s: float = 120.0


@dataclass(frozen=True)
class RetryPolicy:
    """How many attempts a call gets, and how long to wait between them."""

    attempts: int
    backoff: Backoff


class CircuitBreaker:
    """Opens after `failures` consecutive failures. After `open_s` it admits one trial call, which closes or reopens it."""

    def __init__(self, failures: int, open_s: float) -> None:
        self._limit = failures
        self._open_s = open_s
        self._failures = 0
        self._opened_at: float | None = None
        self._trial_in_flight = False

    @property
    def is_open(self) -> bool:
        """Whether calls are blocked."""
        return self._opened_at is not None

    def admit(self) -> bool:
        """Whether a call may be made now."""
        if self._opened_at is None:
            return True
        if self._trial_in_flight or time.monotonic() - self._opened_at < self._open_s:
            return False
        self._trial_in_flight = True
        return True

    def succeeded(self) -> None:
        """Record an answered attempt."""
        self._failures, self._opened_at, self._trial_in_flight = 0, None, False

    def failed(self) -> None:
        """Record a failed attempt."""
        self._failures += 1
        if self._failures >= self._limit or self._opened_at is not None:
            self._opened_at, self._trial_in_flight = time.monotonic(), False

    def trip(self) -> None:
        """Open at once: the endpoint refuses every call."""
        self._opened_at, self._trial_in_flight = time.monotonic(), False

    def released(self) -> None:
        """Record an attempt without an outcome: cancelled, or refused for the rate of calls."""
        self._trial_in_flight = False
