"""Watches in a thread of its own whether the store may be used, whether or not there is work that reads it."""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from reaseq.errors import ShardMapMismatch, StoreEvicts, StoreUnavailable
from streams.delivery import metrics

log = structlog.get_logger()

INTERVAL_S = 5.0


class WatchedStore(Protocol):
    """The store that is watched."""

    @property
    def shards(self) -> range: ...

    def find_incomplete(self, shards: Iterable[int]) -> list[int]: ...

    def evicted_keys(self, shard: int) -> int: ...


@dataclass(frozen=True)
class StoreFault:
    """Why the store must not be used. A restart of the worker does not help."""

    message: str
    consumer_stuck = False

    def __str__(self) -> str:
        return self.message


class StoreWatch:
    """Checks every few seconds that no shard evicts anything, and that the shards are those that the settings name."""

    def __init__(self, store: WatchedStore) -> None:
        self._store = store
        self._errors: dict[int, StoreUnavailable] = {}  # by shard

    def start(self) -> None:
        """Check now, then in a thread. Raises StoreEvicts and ShardMapMismatch; a shard that does not answer comes later."""
        self.check()
        for error in self._errors.values():
            raise error
        threading.Thread(target=self._run, name="store-watch", daemon=True).start()

    def faults(self) -> Sequence[StoreFault]:
        """The faults found in the last check."""
        return [StoreFault(message) for message in dict.fromkeys(map(str, self._errors.values()))]

    def check(self) -> None:
        """Update the faults and the metrics."""
        for shard in self._store.shards:
            self._check(shard)
        metrics.STORE_EVICTS.set(any(isinstance(error, StoreEvicts) for error in self._errors.values()))

    def _check(self, shard: int) -> None:
        """Check one shard. If it does not answer, that changes nothing: batches report it."""
        try:
            metrics.STORE_EVICTED_KEYS.labels(shard + 1).set(self._store.evicted_keys(shard))
            incomplete = self._store.find_incomplete([shard])
        except (StoreEvicts, ShardMapMismatch) as error:
            log.error(error.reason, shard=shard + 1, error=str(error))
            self._errors[shard] = error
        except StoreUnavailable as error:
            log.warning("store_unknown", shard=shard + 1, error=str(error))
        else:
            self._errors.pop(shard, None)
            if incomplete:
                consequence = "batches wait until `reaseq features rebuild` has filled the store"
                log.warning("store_incomplete", shard=shard + 1, consequence=consequence)

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL_S)
            try:
                self.check()
            except Exception:  # the thread must not end
                log.exception("store_check_failed")
