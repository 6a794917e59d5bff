"""The bounded memory of users who wait for items."""

from streams.stages.waiting_users import WaitingUsers


def test_user_is_ready_once_until_taken_however_many_items_arrive() -> None:
    waiting = WaitingUsers(limit=10)
    waiting.add("u", ["i1", "i2"])
    waiting.add("v", ["i2"])

    assert waiting.ready(10) == []
    waiting.items_arrived(["i1", "i3"])
    assert waiting.ready(10) == ["u"]
    waiting.items_arrived(["i2"])
    assert waiting.ready(10) == ["u", "v"] and waiting.ready(1) == ["u"]
    waiting.taken(["u"])
    assert waiting.ready(10) == ["v"]


def test_item_that_has_been_waited_for_longest_is_forgotten_first() -> None:
    waiting = WaitingUsers(limit=3)
    waiting.add("u", ["i1"])
    waiting.add("v", ["i1", "i2"])
    waiting.add("w", ["i3"])

    waiting.items_arrived(["i1", "i2", "i3"])

    assert waiting.ready(10) == ["v", "w"]


def test_no_more_users_than_the_limit_are_ready() -> None:
    waiting = WaitingUsers(limit=2)
    for number in range(5):
        waiting.make_ready(f"u{number}")

    assert waiting.ready(10) == ["u0", "u1"]
