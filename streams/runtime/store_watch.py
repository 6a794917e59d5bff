"""Watches in a thread of its own whether the store evicts rows, whether or not there is work that reads them."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from reaseq.errors import StoreEvicts, StoreUnavailable
from streams.delivery import metrics

log = structlog.get_logger()

INTERVAL_S = 5.0


class WatchedStore(Protocol):
    """The store that is watched."""

    def is_complete(self) -> bool: ...

    def evicted_keys(self) -> int: ...


@dataclass(frozen=True)
class StoreFault:
    """Why the store must not be used. A restart of the worker does not help."""

    message: str
    consumer_stuck = False

    def __str__(self) -> str:
        return self.message


class StoreWatch:
    """Checks every few seconds that the store evicts nothing."""

    def __init__(self, store: WatchedStore) -> None:
        self._store = store
        self._faults: list[StoreFault] = []

    def start(self) -> None:
        """Check now, then in a thread. Raises StoreEvicts; a store that does not answer is checked again later."""
        self.check()
        if self._faults:
            raise StoreEvicts(str(self._faults[0]))
        threading.Thread(target=self._run, name="store-watch", daemon=True).start()

    def faults(self) -> Sequence[StoreFault]:
        """The fault found in the last check, if any."""
        return self._faults

    def check(self) -> None:
        """Update the faults and the metrics. A store that does not answer changes nothing: batches report it."""
        try:
            evicted_keys = self._store.evicted_keys()
            complete = self._store.is_complete()
        except StoreEvicts as error:
            log.error("store_evicts", error=str(error))
            self._faults = [StoreFault(str(error))]
        except StoreUnavailable as error:
            log.warning("store_unknown", error=str(error))
            return
        else:
            self._faults = []
            if not complete:
                log.warning("store_incomplete", consequence="batches wait until `reaseq features rebuild` has filled the store")
        metrics.STORE_EVICTS.set(bool(self._faults))
        metrics.STORE_EVICTED_KEYS.set(evicted_keys)

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL_S)
            try:
                self.check()
            except Exception:  # the thread must not end
                log.exception("store_check_failed")
