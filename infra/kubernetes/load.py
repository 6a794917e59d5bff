"""Rankings, one after the other, while the system changes."""

import threading
import time
from collections import Counter
from types import TracebackType

from reaseq.errors import ReaSeqError
from serving.api import RankingRequest
from serving.client import RankingClient

BUDGET_MS = 5000.0  # two busy cores on which pods start
PAUSE_S = 0.05
REQUEST = RankingRequest(user_id="14911", candidate_ids=["22423", "85123A", "84946"], limit=3)


class Load:
    """A context manager that ranks in two threads: one keeps its connections, the other makes a new one for each request."""

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url
        self.failures: list[str] = []
        self._api_key = api_key
        self._levels = Counter[str]()
        self._slowest_s = 0.0
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._rank, args=(keep,)) for keep in (True, False)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def describe(self) -> str:
        """How many requests were made, with what answers."""
        levels = ", ".join(f"{count} {level}" for level, count in sorted(self._levels.items()))
        requests = sum(self._levels.values()) + len(self.failures)
        return f"{len(self.failures)} of {requests} requests failed ({levels}), slowest {self._slowest_s:.1f} s"

    def _rank(self, keep: bool) -> None:
        client = self._connect()
        while not self._stopped.wait(PAUSE_S):
            started = time.monotonic()
            try:
                self._levels[client.rank(REQUEST).fallback_level] += 1
            except ReaSeqError as error:
                self.failures.append(f"{'a kept' if keep else 'a new'} connection: {error}")
            self._slowest_s = max(self._slowest_s, time.monotonic() - started)
            if not keep:
                client.close()
                client = self._connect()
        client.close()

    def _connect(self) -> RankingClient:
        return RankingClient(self.url, self._api_key, BUDGET_MS)
