"""Times as files write them: dates, and numbers in four units, which their magnitude distinguishes."""

import math
import re
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime

from reaseq.errors import CatalogError
from reaseq.records import EARLIEST_TIME_MS, TIME_LIMIT_MS, TIME_UNITS_MS, describe_wrong_time, find_time_unit

COMPACT_FORMAT = "%Y%m%d%H%M%S"
DATE = ""  # in place of a unit

_YEAR = re.compile(r"%[yYGcx]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_COMPACT = re.compile(r"\d{14}")
_ZONE_NAME = re.compile(r"\[[\w/+-]+\]$")  # as Java appends it
_UTC_NAME = re.compile(r"\s*(UTC|GMT|Etc/UTC)$")
_YEAR_FIRST = re.compile(r"(\d{4})/(\d{1,2})/(\d{1,2})")


def parse_time_ms(value: object, time_format: str = "") -> tuple[int, str]:
    """A time in ms since the epoch, and the unit of the number that it was, or DATE.

    Dates without a time zone are UTC. Text is read in `time_format` (of strptime) if there is one. Raises ValueError, which
    says what is wrong with the value, for anything else than a time between 1990 and 2100 in a form that has one meaning.
    """
    if time_format and isinstance(value, str | int):
        try:
            time = datetime.strptime(str(value).strip(), time_format)
        except ValueError:
            raise ValueError(f"is not a time in the format {time_format!r}") from None
        return _to_ms(time), DATE
    number = _to_number(value)
    if number is not None and (unit := find_time_unit(number)):
        return round(number * TIME_UNITS_MS[unit]), unit
    try:
        return _to_ms(value if isinstance(value, date) else _parse_date(str(value).strip())), DATE
    except (ValueError, OverflowError):
        if number is not None:
            raise ValueError(describe_wrong_time(number)) from None
        raise


def check_time_format(time_format: str) -> None:
    """Raise CatalogError if no time can be read in a format of strptime, or none with a year."""
    try:
        datetime.strptime("", time_format)
    except ValueError as error:
        if "does not match" not in str(error) and "remain" not in str(error):
            raise CatalogError(f"--time-format {time_format!r}: {error}") from None
    if time_format and not _YEAR.search(time_format):
        raise CatalogError(f"--time-format {time_format!r} has no year: write %Y")


def _to_number(value: object) -> float | None:
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    with suppress(OverflowError):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _parse_date(text: str) -> datetime:
    """ISO 8601 and what databases make of it, 14 digits, or the format of e-mail and HTTP headers."""
    if _COMPACT.fullmatch(text):
        return datetime.strptime(text, COMPACT_FORMAT)
    iso = _YEAR_FIRST.sub(r"\1-\2-\3", _UTC_NAME.sub("", _ZONE_NAME.sub("", text)))
    with suppress(ValueError):
        return datetime.fromisoformat(iso)
    with suppress(ValueError):
        time = parsedate_to_datetime(text)
        if time.tzinfo:  # not so for a zone whose name the parser does not know
            return time
    raise ValueError("is no ISO 8601 date: --time-format says how to read it")


def _to_ms(time: date) -> int:
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day)
    time_ms = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    if not EARLIEST_TIME_MS <= time_ms <= TIME_LIMIT_MS:
        raise ValueError("is not between 1990 and 2100")
    return time_ms
