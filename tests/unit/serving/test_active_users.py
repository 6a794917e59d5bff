"""Active users are those whose features changed last."""

from serving.active_users import ACTIVE_USERS, ActiveUsers
from streams.delivery.messages import RawRecord
from streams.delivery.topics import USER_FEATURES


def record(user: str, timestamp_ms: int, value: bytes | None = b"{}") -> RawRecord:
    return RawRecord(USER_FEATURES.name, user.encode(), value, timestamp_ms)


def test_users_are_named_once_newest_first_and_a_tombstone_is_no_activity() -> None:
    users = ActiveUsers()
    users.observe([record("a", 1), record("c", 4), record("b", 2), record("erased", 5, None)])
    users.observe([record("a", 6)])

    assert users.newest_first() == ["a", "c", "b"]


def test_only_the_latest_are_remembered() -> None:
    users = ActiveUsers()
    for number in range(ACTIVE_USERS + 50):
        users.observe([record(f"u{number}", number)])

    assert len(users.newest_first()) == ACTIVE_USERS and users.newest_first()[0] == f"u{ACTIVE_USERS + 49}"
