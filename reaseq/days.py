"""Days, UTC: times are milliseconds since the epoch everywhere, and people and files name days."""

from datetime import UTC, datetime

from reaseq.errors import ReaSeqError

DAY_MS = 86_400_000


def time_ms(text: str) -> int:
    """The start of a day (YYYY-MM-DD), or a moment of it (YYYY-MM-DDTHH:MM). Raises ReaSeqError where it is neither."""
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise ReaSeqError(f"{text!r} is no day (YYYY-MM-DD) and no moment of one (YYYY-MM-DDTHH:MM)") from None


def to_day(time_ms: int) -> str:
    """A day as it stands in a version's name (YYYYMMDD)."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y%m%d")
