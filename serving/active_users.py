"""Whose features changed last, for the console."""

from collections import deque
from collections.abc import Sequence

from streams.delivery.messages import RawRecord

ACTIVE_USERS = 200


class ActiveUsers:
    """The users of the latest records of `user-features`. Safe to use from several threads."""

    def __init__(self) -> None:
        self._latest: deque[str] = deque(maxlen=ACTIVE_USERS)

    def observe(self, records: Sequence[RawRecord]) -> None:
        """Remember whose records these are; their contents are not read, and a tombstone is no activity."""
        in_order = sorted(records, key=lambda record: record.timestamp_ms)  # one poll has several partitions
        self._latest.extend(record.key.decode(errors="replace") for record in in_order if record.key and record.value)

    def newest_first(self) -> list[str]:
        """Different users."""
        return list(dict.fromkeys(reversed(list(self._latest))))
