"""The memory of written versions: bounded, and never behind what was written."""

from features.newest_versions import NewestVersions
from reaseq.records import History, ItemFeatures, UserFeatures


def user(user_id: str, events_seen: int) -> UserFeatures:
    return UserFeatures(user_id=user_id, event_time_ms=5, events_seen=events_seen, history=History())


def test_older_and_missing_rows_are_lost_and_equal_and_newer_ones_are_not() -> None:
    written = NewestVersions(limit_entities=10)
    written.add([user("u", events_seen=3)])
    written.add([user("u", events_seen=2)])  # stale: the store kept the newer one
    newest = user("u", events_seen=3).version

    assert written.newer(UserFeatures, {"u": user("u", events_seen=2).version}) == {"u": newest}
    assert written.newer(UserFeatures, {"u": None, "unknown": None}) == {"u": newest}
    assert written.newer(UserFeatures, {"u": newest}) == {}
    assert written.newer(UserFeatures, {"u": user("u", events_seen=4).version}) == {}
    assert written.newer(ItemFeatures, {"u": None}) == {}  # an item of the same id


def test_only_the_entities_written_last_are_remembered() -> None:
    written = NewestVersions(limit_entities=2)
    for user_id in ("a", "b", "a", "c"):
        written.add([user(user_id, events_seen=1)])

    assert written.newer(UserFeatures, dict.fromkeys("abc")).keys() == {"a", "c"}
