"""What an aggregate is: a function of the events of an item over windows of time, or with counts that decay."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from reaseq.days import DAY_MS
from reaseq.errors import InvalidDeclaration
from reaseq.records import EVENT_TYPES

Function = Literal["count", "sum", "mean", "ratio"]

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
UNITS_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
TILES_MS = (5 * MINUTE_MS, HOUR_MS, DAY_MS)
LEAST_TILES = 12  # of a window: its value changes by steps of at most a twelfth of the window
LONGEST_MS = 400 * DAY_MS
KEPT_HALF_LIVES = 4  # an event that is older has less than a sixteenth of its weight, and is dropped

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DURATION = re.compile(r"([1-9][0-9]{0,5})([mhd])")


@dataclass(frozen=True)
class Aggregate:
    """An aggregate of the events of an item. Raises InvalidDeclaration if it cannot be kept.

    - `count`: the events of the types `event_types`.
    - `sum`: the sum of the values of these events; events without a value add nothing.
    - `mean`: this sum, by the number of the events that have a value.
    - `ratio`: the count of `event_types` by the count of `over`.

    There is one feature for each window, `<name>_<window>`, and each half-life, `<name>_half_life_<half-life>`. Durations are
    written `90m`, `24h` or `7d`. See `reaseq.aggregates.evaluation` for their values.
    """

    name: str
    function: Function
    event_types: Sequence[str]
    over: Sequence[str] = ()
    windows: Sequence[str] = ()
    half_lives: Sequence[str] = ()
    by: Literal["item"] = "item"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise self._error("its name must be of at most 64 lower-case letters, digits and underscores, a letter first")
        if self.function not in get_args(Function):
            raise self._error(f"its function must be one of {', '.join(get_args(Function))}, not {self.function!r}")
        if self.by != "item":
            raise self._error(f"by must be 'item', not {self.by!r}")
        for field in ("event_types", "over", "windows", "half_lives"):
            given = getattr(self, field)
            if (
                not isinstance(given, list | tuple)
                or not all(isinstance(text, str) for text in given)
                or len({*given}) < len(given)
            ):
                raise self._error(f"{field} must be a list of different texts")
        if not self.event_types:
            raise self._error("event_types is empty")
        if bool(self.over) != (self.function == "ratio"):
            raise self._error("a ratio, and nothing else, has event types in `over`")
        if unknown := [name for name in (*self.event_types, *self.over) if name not in EVENT_TYPES]:
            raise self._error(f"there is no event type {unknown[0]!r}: choose among {', '.join(EVENT_TYPES)}")
        if not self.windows and not self.half_lives:
            raise self._error("it needs windows or half_lives")
        for window in self.windows:
            self._check_window(window)
        for half_life in self.half_lives:
            if not HOUR_MS <= self._to_ms(half_life) <= LONGEST_MS // KEPT_HALF_LIVES:
                raise self._error(f"the half-life {half_life} is not between 1h and {LONGEST_MS // KEPT_HALF_LIVES // DAY_MS}d")

    @property
    def spans(self) -> tuple["Span", ...]:
        """The windows and the half-lives, in the order of the features."""
        windows = (Span(f"{self.name}_{window}", to_ms(window), 0) for window in self.windows)
        decayed = (
            Span(f"{self.name}_half_life_{half_life}", KEPT_HALF_LIVES * to_ms(half_life), to_ms(half_life))
            for half_life in self.half_lives
        )
        return (*windows, *decayed)

    def _check_window(self, window: str) -> None:
        window_ms = self._to_ms(window)
        if not HOUR_MS <= window_ms <= LONGEST_MS:
            raise self._error(f"the window {window} is not between 1h and {LONGEST_MS // DAY_MS}d")
        if window_ms % (tile_ms := choose_tile_ms(window_ms)):
            raise self._error(f"the window {window} is not a multiple of its tiles of {tile_ms // MINUTE_MS}m: round it")

    def _to_ms(self, duration: str) -> int:
        if not _DURATION.fullmatch(duration):
            raise self._error(f"{duration!r} is no duration: write 90m, 24h or 7d")
        return to_ms(duration)

    def _error(self, problem: str) -> InvalidDeclaration:
        return InvalidDeclaration(f"aggregate {self.name!r}: {problem}")


@dataclass(frozen=True)
class Span:
    """The time that one feature of an aggregate covers."""

    feature: str
    span_ms: int
    half_life_ms: int  # 0 for a window, in which all events count alike

    @property
    def tile_ms(self) -> int:
        """The size of its tiles."""
        return choose_tile_ms(self.span_ms)

    @property
    def tiles(self) -> int:
        """The number of its tiles."""
        return -(-self.span_ms // self.tile_ms)


def to_ms(duration: str) -> int:
    """The milliseconds of a duration such as `24h`."""
    return int(duration[:-1]) * UNITS_MS[duration[-1]]


def choose_tile_ms(span_ms: int) -> int:
    """The largest tile of which at least LEAST_TILES are in the span, or the smallest one."""
    return max((tile_ms for tile_ms in TILES_MS if LEAST_TILES * tile_ms <= span_ms), default=TILES_MS[0])
