"""Days, UTC: times are milliseconds since the epoch everywhere, and people and files name days."""

from datetime import UTC, datetime

DAY_MS = 86_400_000


def time_ms(day: str) -> int:
    """The start of a day (YYYY-MM-DD)."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def day_of(time_ms: int) -> str:
    """A day as it stands in a version's name (YYYYMMDD)."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y%m%d")
