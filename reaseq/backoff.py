"""Exponential back-off: how long to wait before a retry."""

import random
from dataclasses import dataclass

_DOUBLINGS_LIMIT = 64  # keeps the power finite; the wait reaches its limit long before that


@dataclass(frozen=True)
class Backoff:
    """Waits that double with each attempt: min(first_s · 2^attempt, limit_s)."""

    first_s: float
    limit_s: float

    def wait_s(self, attempt: int, jitter: random.Random | None = None) -> float:
        """Seconds to wait after attempt number `attempt`, counted from 0.

        With `jitter`, the wait is drawn uniformly from its upper half, so that callers that failed together do not retry
        together.
        """
        wait_s = min(self.first_s * 2.0 ** min(attempt, _DOUBLINGS_LIMIT), self.limit_s)
        return wait_s * (0.5 + 0.5 * jitter.random()) if jitter is not None else wait_s
