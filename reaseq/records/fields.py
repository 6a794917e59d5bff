"""Types and limits of the fields that several records share. Times are milliseconds since the epoch, UTC."""

from collections.abc import Sized
from typing import Annotated

from msgspec import Meta

ID_LIMIT_CHARS = 128
TITLE_LIMIT_CHARS = 1000
PARTITIONS_LIMIT = 100_000  # of a topic
EARLIEST_TIME_MS = 631_152_000_000  # 1990-01-01; an earlier time of an item, event or request is in the wrong unit
TIME_LIMIT_MS = 4_102_444_800_000  # 2100-01-01; a later time is in the wrong unit

# The ranges of times between these in different units do not overlap.
TIME_UNITS_MS = {"seconds": 1000.0, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}
EXCEL_DAYS = range(32_874, 73_051)  # since 1899-12-30, from 1990 to 2100


def find_time_unit(number: float) -> str:
    """The unit in which a number is a time between 1990 and 2100; empty if it is none."""
    for unit, unit_ms in TIME_UNITS_MS.items():
        if EARLIEST_TIME_MS / unit_ms <= number <= TIME_LIMIT_MS / unit_ms:
            return unit
    return ""


def describe_wrong_time(number: float) -> str:
    """What is wrong with a number that should be a time in ms, as the end of a sentence; empty if nothing is."""
    if EARLIEST_TIME_MS <= number <= TIME_LIMIT_MS:
        return ""
    if unit := find_time_unit(number):
        return f"is in {unit}, but milliseconds are expected"
    is_excel_day = EXCEL_DAYS.start <= number < EXCEL_DAYS.stop
    return "is a day as Excel counts them: write a date" if is_excel_day else "is not between 1990 and 2100"


Id = Annotated[str, Meta(min_length=1, max_length=ID_LIMIT_CHARS)]
TimeMs = Annotated[int, Meta(ge=0, le=TIME_LIMIT_MS)]
Count = Annotated[int, Meta(ge=0, le=2**44)]  # 256 times this is still an exact row version, see features/row_format.py
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Version = tuple[int, int]  # event time in ms, revision; the greater version is the newer record


def require_equal_lengths(*columns: Sized) -> None:
    """Raise ValueError unless parallel arrays have the same length."""
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"parallel arrays have different lengths: {[len(column) for column in columns]}")
