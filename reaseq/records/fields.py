"""Types and limits of the fields that several records share. Times are milliseconds since the epoch, UTC."""

from collections.abc import Sized
from typing import Annotated

from msgspec import Meta

ID_LIMIT_CHARS = 128
TITLE_LIMIT_CHARS = 1000
EARLIEST_TIME_MS = 631_152_000_000  # 1990-01-01; an earlier time of an item or event is in the wrong unit
TIME_LIMIT_MS = 4_102_444_800_000  # 2100-01-01; a later time is in the wrong unit


def is_in_seconds(time_ms: int) -> bool:
    """Whether a time in ms is in January or February 1970, but a time between 1990 and 2100 if it is taken for seconds."""
    return EARLIEST_TIME_MS <= time_ms * 1000 <= TIME_LIMIT_MS


Id = Annotated[str, Meta(min_length=1, max_length=ID_LIMIT_CHARS)]
TimeMs = Annotated[int, Meta(ge=0, le=TIME_LIMIT_MS)]
Count = Annotated[int, Meta(ge=0, le=2**44)]  # 256 times this is still an exact row version, see features/row_format.py
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Version = tuple[int, int]  # event time in ms, revision; the greater version is the newer record


def require_equal_lengths(*columns: Sized) -> None:
    """Raise ValueError unless parallel arrays have the same length."""
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"parallel arrays have different lengths: {[len(column) for column in columns]}")
