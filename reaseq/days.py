"""Conversions between days, as people and file names write them, and milliseconds since the epoch. All times are UTC."""

from datetime import UTC, datetime

from reaseq.errors import ReaSeqError
from reaseq.records import EARLIEST_TIME_MS, TIME_LIMIT_MS

DAY_MS = 86_400_000


def time_ms(text: str) -> int:
    """The time of YYYY-MM-DD (start of the day) or YYYY-MM-DDTHH:MM. Raises ReaSeqError for any other text or time."""
    try:
        found_ms = int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise ReaSeqError(f"{text!r} is not a date: write YYYY-MM-DD or YYYY-MM-DDTHH:MM (UTC)") from None
    if not EARLIEST_TIME_MS <= found_ms <= TIME_LIMIT_MS:
        raise ReaSeqError(f"{text!r} is not between 1990 and 2100")
    return found_ms


def to_day(time_ms: int) -> str:
    """The day as YYYYMMDD, as used in version names."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y%m%d")
