"""Paces calls to an endpoint that limits their rate: multiplicative decrease on a refusal, steady growth otherwise.

The limit itself is unknown. A refusal (HTTP 429 and the like) sets the rate a little below what the endpoint accepted recently,
from where it doubles every DOUBLING_S. So it settles just below the limit, whatever that is, and refusals stay rare. Unlimited
until the first refusal.
"""

import asyncio
import math
import time
from collections import deque

from reaseq.backoff import Backoff

WINDOW_S = 10.0  # over which the accepted rate is measured
SPAN_MIN_S = 1.0  # shortest time to divide by, so that a burst does not look like a rate
DECREASE = 0.8  # of the accepted rate, after a refusal
DOUBLING_S = 30.0
RATE_MIN_PER_S = 0.1


class AdaptiveRate:
    """The rate of one endpoint. Belongs to one event loop; one caller at a time may `wait`."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._limit_per_s = math.inf  # just after the latest refusal
        self._refused_at = -math.inf
        self._refused_since: float | None = None  # the first refusal since a call was accepted
        self._refusals = 0  # of calls that were sent after the previous refusal
        self._paused_until = -math.inf
        self._next_at = -math.inf
        self._sent: deque[float] = deque()
        self._refused: deque[float] = deque()

    @property
    def per_s(self) -> float:
        """Calls per second that may be sent now."""
        return self._limit_per_s * math.exp2(min(self.quiet_s / DOUBLING_S, 64.0))

    @property
    def pause_s(self) -> float:
        """Seconds until the endpoint wants to be called again."""
        return max(self._paused_until - time.monotonic(), 0.0)

    @property
    def quiet_s(self) -> float:
        """Seconds since the latest refusal."""
        return time.monotonic() - self._refused_at

    @property
    def refusing_s(self) -> float:
        """Seconds since which the endpoint has refused every call; 0 if it accepted the latest."""
        return 0.0 if self._refused_since is None else time.monotonic() - self._refused_since

    async def wait(self) -> float:
        """Wait for the next call's turn; returns its time, for `refused`."""
        while (wait_s := max(self._paused_until, self._next_at) - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        now = time.monotonic()
        self._next_at = now + 1.0 / self.per_s
        self._sent.append(now)
        return now

    def accepted(self) -> None:
        """Record a call that the endpoint did not refuse for its rate."""
        self._refused_since, self._refusals = None, 0

    def refused(self, sent_at: float, retry_after_s: float | None) -> None:
        """Record a call that the endpoint refused for its rate, and pause for as long as it says or else with back-off."""
        now = time.monotonic()
        self._refused.append(now)
        limit_per_s = self.per_s
        if accepted_per_s := self._accepted_per_s(now):  # without one, the pause has to do
            limit_per_s = min(limit_per_s, max(DECREASE * accepted_per_s, RATE_MIN_PER_S))
        if sent_at > self._refused_at:
            pause_s = self._backoff.wait_s(self._refusals) if retry_after_s is None else retry_after_s
            self._refusals += 1
        else:  # it was in flight when the endpoint refused another one
            pause_s = retry_after_s or 0.0
        self._limit_per_s, self._refused_at = limit_per_s, now
        self._refused_since = now if self._refused_since is None else self._refused_since
        self._paused_until = max(self._paused_until, now + pause_s)

    def _accepted_per_s(self, now: float) -> float:
        for times in (self._sent, self._refused):
            while times and times[0] < now - WINDOW_S:
                times.popleft()
        span_s = max(now - self._sent[0], SPAN_MIN_S) if self._sent else SPAN_MIN_S
        return max(len(self._sent) - len(self._refused), 0) / span_s
