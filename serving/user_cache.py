"""Users' features for ranking: read from the feature store, and remembered for when it does not answer."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reaseq.errors import StoreUnavailable
from reaseq.records import UserFeatures


class UserReader(Protocol):
    """Where users' features are read."""

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]: ...


@dataclass(frozen=True)
class Known:
    """What is known of a user: read just now, or remembered; `user` is None where there is nothing."""

    user: UserFeatures | None
    fresh: bool


class Users:
    """Reads users, and never fails: a store that does not answer is left alone for a while, and memory answers.

    At most `remembered` users are kept, those asked for last.
    """

    def __init__(
        self, store: UserReader, remembered: int, leave_alone_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._remembered = remembered
        self._leave_alone_s = leave_alone_s
        self._clock = clock
        self._ask_again_at = 0.0
        self._memory: OrderedDict[str, UserFeatures] = OrderedDict()

    def read(self, user_ids: Sequence[str]) -> list[Known]:
        """What is known of each user, in order."""
        if self._clock() >= self._ask_again_at:
            try:
                found = self._store.read_users(user_ids)
            except StoreUnavailable:
                self._ask_again_at = self._clock() + self._leave_alone_s
            else:
                self._remember(found)
                # Rows never leave a store but with all of it, so whom it does not know any more is still to be filled in.
                lost = {user_id for user_id in user_ids if user_id not in found and user_id in self._memory}
                return [self._last_known(u) if u in lost else Known(found.get(u), fresh=True) for u in user_ids]
        return list(map(self._last_known, user_ids))

    def _last_known(self, user_id: str) -> Known:
        return Known(self._memory.get(user_id), fresh=False)

    def _remember(self, found: dict[str, UserFeatures]) -> None:
        for user_id, user in found.items():
            self._memory[user_id] = user
            self._memory.move_to_end(user_id)
        while len(self._memory) > self._remembered:
            self._memory.popitem(last=False)
