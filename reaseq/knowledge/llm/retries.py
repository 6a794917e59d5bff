"""How long a call is waited for, how often it is tried again, and when an endpoint is left alone for a while."""

import random
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """Limits on one attempt: to connect, and until the whole answer is there."""

    connect_s: float = 5.0
    answer_s: float = 120.0


@dataclass(frozen=True)
class RetryPolicy:
    """How often an attempt that failed on the way is repeated, and how long to wait before."""

    attempts: int = 4
    first_s: float = 0.5
    limit_s: float = 20.0

    def wait_s(self, attempt: int, draw: random.Random) -> float:
        """Between half and all of a wait that doubles: callers that failed together do not come back together."""
        return min(self.first_s * 2.0**attempt, self.limit_s) * (0.5 + 0.5 * draw.random())


class CircuitBreaker:
    """Opens after `failures` failures in a row; `open_s` later it lets one call try, whose outcome closes or reopens it."""

    def __init__(self, failures: int, open_s: float) -> None:
        self._limit = failures
        self._open_s = open_s
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether calls are turned away."""
        return self._opened_at is not None

    def admit(self) -> bool:
        """Whether a call may be made now."""
        if self._opened_at is None:
            return True
        if self._trying or time.monotonic() - self._opened_at < self._open_s:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        """An attempt was answered."""
        self._failures, self._opened_at, self._trying = 0, None, False

    def failed(self) -> None:
        """An attempt was not answered."""
        self._failures += 1
        if self._failures >= self._limit or self._opened_at is not None:
            self._opened_at, self._trying = time.monotonic(), False

    def released(self) -> None:
        """An attempt was given up before its outcome was known."""
        self._trying = False
