"""Users' features for ranking: read from the feature store, and cached for when it does not answer."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reaseq.errors import StoreUnavailable
from reaseq.readers import UserReader
from reaseq.records import UserFeatures


@dataclass(frozen=True)
class CachedUser:
    """A user's features, read just now (`fresh`) or cached earlier; None if nothing is known."""

    features: UserFeatures | None
    fresh: bool


class UserCache:
    """Reads users and never fails: after a failed read the store is left alone for `pause_s`, and the cache answers.

    Keeps the `limit_users` most recently requested users.
    """

    def __init__(
        self, store: UserReader, limit_users: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._limit_users = limit_users
        self._pause_s = pause_s
        self._clock = clock
        self._paused_until = 0.0
        self._cached: OrderedDict[str, UserFeatures] = OrderedDict()

    def read(self, user_ids: Sequence[str]) -> list[CachedUser]:
        """What is known of each user, in order."""
        if self._clock() < self._paused_until:
            return list(map(self._last_known, user_ids))
        try:
            found = self._store.read_users(user_ids)
        except StoreUnavailable:
            self._paused_until = self._clock() + self._pause_s
            return list(map(self._last_known, user_ids))
        self._cache(found)
        # A store never loses single rows. If it lacks a cached user, it was emptied and is still being rebuilt.
        return [
            self._last_known(user_id)
            if user_id not in found and user_id in self._cached
            else CachedUser(found.get(user_id), fresh=True)
            for user_id in user_ids
        ]

    def _last_known(self, user_id: str) -> CachedUser:
        return CachedUser(self._cached.get(user_id), fresh=False)

    def _cache(self, found: dict[str, UserFeatures]) -> None:
        for user_id, user in found.items():
            self._cached[user_id] = user
            self._cached.move_to_end(user_id)
        while len(self._cached) > self._limit_users:
            self._cached.popitem(last=False)
