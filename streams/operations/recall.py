"""Finds users in the store whose inference is due, and whom no worker remembers: after a restart, or with the first model."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import structlog

from reaseq.records import UserFeatures
from reaseq.settings import WorkerSettings
from streams.operations.replay import at_rate

log = structlog.get_logger()


class ScannedStore(Protocol):
    """The store that is scanned."""

    def scan_user_ids(self) -> Iterator[str]: ...

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]: ...


class RecallingStage(Protocol):
    """The stage that is told of the users."""

    def recall(self, records: Sequence[UserFeatures]) -> None: ...


class Recaller:
    """Scans all users every `recall_interval_s`, in a background thread and slowly, so that readers do not notice."""

    def __init__(self, settings: WorkerSettings, store: ScannedStore, stage: RecallingStage) -> None:
        self._settings = settings
        self._store = store
        self._stage = stage

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="recall", daemon=True).start()

    def scan(self) -> None:
        """Scan all users once. Raises StoreUnavailable."""
        for user_ids in at_rate(self._store.scan_user_ids(), self._settings.recall_users_per_s):
            self._stage.recall([*self._store.read_users(user_ids).values()])

    def _run(self) -> None:
        while True:
            try:
                self.scan()
            except Exception as error:  # an unavailable store is reported elsewhere
                log.warning("recall_failed", error=str(error))
            time.sleep(self._settings.recall_interval_s)
