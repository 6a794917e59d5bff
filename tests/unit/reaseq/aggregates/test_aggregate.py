"""Aggregates are checked when they are declared, and their values are a function of tiles."""

import math

import pytest

from reaseq.aggregates import Aggregate, Series, evaluate, kept_series, pack_tiles, unpack_tiles
from reaseq.aggregates.tiles import drop_expired
from reaseq.days import DAY_MS
from reaseq.errors import InvalidDeclaration

HOUR_MS = 3_600_000
MINUTES_MS = 300_000
NOW_MS = 1000 * DAY_MS + HOUR_MS // 2


def views(**more: object) -> Aggregate:
    return Aggregate("views", "count", ("view",), **({"windows": ("24h",)} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"windows": ("1 day",)}, r"aggregate 'views': '1 day' is no duration: write 90m, 24h or 7d"),
        ({"windows": ("30m",)}, "the window 30m is not between 1h and 400d"),
        ({"windows": ("401d",)}, "the window 401d is not between"),
        ({"windows": ("61m",)}, "the window 61m is not a multiple of its tiles of 5m: round it"),
        ({"windows": ("750m",)}, "the window 750m is not a multiple of its tiles of 60m: round it"),
        ({"windows": (), "half_lives": ("101d",)}, "the half-life 101d is not between 1h and 100d"),
        ({"windows": ()}, "it needs windows or half_lives"),
        ({"windows": "24h"}, "windows must be a list of different texts"),
        ({"windows": ("24h", "24h")}, "windows must be a list of different texts"),
        ({"over": ("view",)}, "a ratio, and nothing else, has event types in `over`"),
        ({"by": "shop"}, "by must be 'item', not 'shop'"),
    ],
)
def test_error_says_what_to_change(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidDeclaration, match=message):
        views(**wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Views!", "count", ("view",)), "its name must be"),
        (("views", "median", ("view",)), "its function must be one of count, sum, mean, ratio, not 'median'"),
        (("views", "count", ()), "event_types is empty"),
        (("likes", "count", ("view", "like")), "there is no event type 'like': choose among view, click, cart, purchase"),
        (("share", "ratio", ("view",)), "a ratio, and nothing else"),
    ],
)
def test_error_names_the_aggregate(arguments: tuple[str, str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(InvalidDeclaration, match=f"aggregate '{arguments[0]}': {message}"):
        Aggregate(*arguments, windows=("24h",))  # type: ignore[arg-type]


def test_tiles_are_small_beside_the_window_and_long_windows_share_them() -> None:
    kept = kept_series([views(windows=("1h", "24h", "7d", "30d", "120d"), half_lives=("1d", "30d"))])

    assert kept == {
        Series("view", "events", MINUTES_MS): 12,
        Series("view", "events", HOUR_MS): 168,
        Series("view", "events", DAY_MS): 120,
    }


def test_window_ends_with_the_current_tile_and_leaves_out_the_tile_before_its_first() -> None:
    now_tile = NOW_MS // HOUR_MS
    series = Series("view", "events", HOUR_MS)

    def count(tile: int) -> float:
        return evaluate(views(), {series: {tile: 5}}, NOW_MS)["views_24h"]

    assert [count(now_tile), count(now_tile - 23), count(now_tile - 24), count(now_tile + 1)] == [5, 5, 0, 0]


def test_decay_halves_the_count_of_a_tile_every_half_life() -> None:
    decayed = views(windows=(), half_lives=("1d",))
    tiles = {Series("view", "events", HOUR_MS): {NOW_MS // HOUR_MS: 8}}  # its middle is now

    found = [evaluate(decayed, tiles, NOW_MS + days * DAY_MS)["views_half_life_1d"] for days in range(5)]

    assert found == [8, 4, 2, 1, 0]


def test_mean_and_ratio_of_nothing_are_nan() -> None:
    mean = Aggregate("rating", "mean", ("view",), windows=("7d",))
    ratio = Aggregate("share", "ratio", ("purchase",), over=("view",), windows=("7d",))

    assert all(math.isnan(value) for aggregate in (mean, ratio) for value in evaluate(aggregate, {}, NOW_MS).values())


def test_packed_tiles_are_read_back_and_do_not_depend_on_the_order() -> None:
    series, other = Series("view", "events", HOUR_MS), Series("cart", "sum", DAY_MS)
    tiles = {series: {7: 1, 3: -2}, other: {5: 10**15}}

    assert unpack_tiles(pack_tiles(tiles)) == tiles
    assert pack_tiles(tiles) == pack_tiles({other: {5: 10**15}, series: {3: -2, 7: 1}})


def test_row_stays_bounded_and_keeps_one_tile_more_than_the_window() -> None:
    series, gone = Series("view", "events", HOUR_MS), Series("cart", "events", HOUR_MS)
    newest = NOW_MS // HOUR_MS
    tiles = {series: {newest - age: 1 for age in range(100)} | {newest - 3: 0}, gone: {newest: 1}}

    current = drop_expired(tiles, {series: 24}, NOW_MS)

    assert current == {series: {newest - age: 1 for age in range(25) if age != 3}}
