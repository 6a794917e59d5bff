"""Users' features for ranking: read from the feature store, and cached for when it does not answer."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from reaseq.records import UserFeatures

log = structlog.get_logger()


@dataclass(frozen=True)
class CachedUser:
    """A user's features, read just now (`fresh`) or cached earlier; None if nothing is known."""

    features: UserFeatures | None
    fresh: bool


class UserStore(Protocol):
    """The feature store, whose users are spread over shards."""

    def shard_of(self, entity_id: str) -> int:
        """The shard that holds a user."""
        ...

    def read_available_users(self, user_ids: Sequence[str]) -> tuple[dict[str, UserFeatures], set[int]]:
        """The known users by id, without those of shards that do not answer, and the numbers of these shards."""
        ...


class UserCache:
    """Reads users and never fails: a shard that fails a read is left alone for `pause_s`, and the cache answers for its users.

    Keeps the `limit_users` most recently requested users.
    """

    def __init__(self, store: UserStore, limit_users: int, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._limit_users = limit_users
        self._pause_s = pause_s
        self._clock = clock
        self._paused_until: dict[int, float] = {}  # by shard
        self._cached: OrderedDict[str, UserFeatures] = OrderedDict()

    def read(self, user_ids: Sequence[str]) -> list[CachedUser]:
        """What is known of each user, in order."""
        shards = {user_id: self._store.shard_of(user_id) for user_id in user_ids}
        now = self._clock()
        unread = {shard for shard, until in self._paused_until.items() if now < until}
        found: dict[str, UserFeatures] = {}
        if wanted := [user_id for user_id in user_ids if shards[user_id] not in unread]:
            found, failed = self._store.read_available_users(wanted)
            self._pause(failed)
            unread |= failed
            self._cache(found)
        # A store never loses single rows. If it lacks a cached user, it was emptied and is still being rebuilt.
        return [
            self._last_known(user_id)
            if shards[user_id] in unread or (user_id not in found and user_id in self._cached)
            else CachedUser(found.get(user_id), fresh=True)
            for user_id in user_ids
        ]

    def _pause(self, shards: set[int]) -> None:
        if shards:
            log.warning("store_unavailable", shards=[shard + 1 for shard in sorted(shards)], consequence="cached users")
        until = self._clock() + self._pause_s
        self._paused_until.update(dict.fromkeys(shards, until))

    def _last_known(self, user_id: str) -> CachedUser:
        return CachedUser(self._cached.get(user_id), fresh=False)

    def _cache(self, found: dict[str, UserFeatures]) -> None:
        for user_id, user in found.items():
            self._cached[user_id] = user
            self._cached.move_to_end(user_id)
        while len(self._cached) > self._limit_users:
            self._cached.popitem(last=False)
