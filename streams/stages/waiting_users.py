"""Users whose inferred behaviors rest on a part of the catalog, by the items that they wait for."""

import threading
from collections.abc import Sequence


class WaitingUsers:
    """Users are ready once an item that they wait for has arrived. Safe to use from several threads.

    At most `limit` pairs of user and item wait, and at most `limit` users are ready. Beyond that, the item that has been waited
    for longest is forgotten, and no further user becomes ready.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: dict[str, set[str]] = {}  # users by item, the item that has been waited for longest first
        self._pairs = 0
        self._ready: dict[str, None] = {}  # in order

    def add(self, user_id: str, item_ids: Sequence[str]) -> None:
        """Let a user wait for items."""
        with self._lock:
            for item_id in item_ids:
                users = self._waiting.setdefault(item_id, set())
                self._pairs += user_id not in users
                users.add(user_id)
            while self._pairs > self._limit:
                self._take(next(iter(self._waiting)))

    def items_arrived(self, item_ids: Sequence[str]) -> None:
        """Make the users ready that wait for one of the items."""
        with self._lock:
            for item_id in item_ids:
                for user_id in self._take(item_id):
                    self._make_ready(user_id)

    def make_ready(self, user_id: str) -> None:
        """Make a user ready."""
        with self._lock:
            self._make_ready(user_id)

    def ready(self, count: int) -> list[str]:
        """Up to `count` users that are ready; they stay so until they are taken."""
        with self._lock:
            return list(self._ready)[:count]

    def taken(self, user_ids: Sequence[str]) -> None:
        """The users are no longer ready."""
        with self._lock:
            for user_id in user_ids:
                self._ready.pop(user_id, None)

    def _make_ready(self, user_id: str) -> None:
        if len(self._ready) < self._limit:
            self._ready[user_id] = None

    def _take(self, item_id: str) -> set[str]:
        users = self._waiting.pop(item_id, set())
        self._pairs -= len(users)
        return users
