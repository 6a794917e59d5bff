"""Conversion of raw values of a source file to the values of message fields.

Values that cannot be converted are returned unchanged: the stream rejects the message with a reason.
"""

import math
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

LIST_SEPARATOR = " > "  # as in a category path
TIME_COLUMNS = {"event_time_ms", "event_time_s", "event_time"}

Row = dict[str, Any]


def is_empty(value: object) -> bool:
    """Whether a value is missing: None, an empty string, or NaN."""
    return value in (None, "") or (isinstance(value, float) and math.isnan(value))


def to_text(value: object) -> str:
    """A value as text. The elements of a list are joined."""
    return LIST_SEPARATOR.join(map(str, value)) if isinstance(value, list) else str(value)


def to_number(value: object) -> object:
    """A value as a float."""
    with suppress(ValueError, TypeError):
        return float(value)  # type: ignore[arg-type]
    return value


def to_attributes(value: object) -> dict[str, str]:
    """The non-empty attributes in a column named `attributes`: a struct, the pairs of a map, or a single text."""
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        pairs = value if isinstance(value, list) else [("attributes", value)]
    return {name: to_text(text) for name, text in pairs if not is_empty(text)}


def to_event_time_ms(row: Row, default: int | None) -> object:
    """The event time of a row in ms, or `default` if it has none. Dates without a time zone are UTC."""
    with suppress(ValueError, TypeError, OverflowError):
        if "event_time_ms" in row:
            return int(row["event_time_ms"])
        if "event_time_s" in row:
            return int(float(row["event_time_s"]) * 1000)
        if "event_time" in row:
            value = row["event_time"]
            time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
            return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    return next((row[name] for name in sorted(TIME_COLUMNS) if name in row), default)
