"""Event log files: rows become events."""

from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from reaseq.records import Event
from streams.sources.event_log_file import EventLogFile
from streams.sources.source_file import ReadOptions
from tests.fakes.parquet import write_parquet

NOON_MS = 1_318_939_200_000


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("event_time_ms", NOON_MS),
        ("event_time_s", NOON_MS // 1000),
        ("event_time", "2011-10-18 12:00:00"),
        ("event_time", "2011-10-18T14:00:00+02:00"),
        ("event_time", datetime(2011, 10, 18, 12)),
    ],
)
def test_event_time_is_read_in_every_format(tmp_path: Path, column: str, value: object) -> None:
    path = write_parquet(tmp_path / "e.parquet", user=["u", "u"], item_id=[7, 7], **{column: [value, value]})

    first, second = read(EventLogFile(path, ReadOptions({"user_id": "user"})))

    assert (first.user_id, first.item_id, first.type, first.event_time_ms) == ("u", "7", "purchase", NOON_MS)
    assert first.event_id == second.event_id, "equal rows are one event"


def test_optional_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("event_id,user_id,item_id,type,quantity,event_time_s\ne1,u,i,view,2,1318939200.5\n")

    (event,) = read(EventLogFile(path))

    assert (event.event_id, event.type, event.quantity, event.event_time_ms) == ("e1", "view", 2.0, NOON_MS + 500)


def test_events_with_different_quantities_are_different_events(tmp_path: Path) -> None:
    times = [NOON_MS, NOON_MS]
    path = write_parquet(tmp_path / "e.parquet", user_id=["u", "u"], item_id=["i", "i"], event_time_ms=times, quantity=[1, 2])

    first, second = read(EventLogFile(path))
    assert first.event_id != second.event_id


def read(log: EventLogFile) -> list[Event]:
    """The events of all rows."""
    return [msgspec.convert(record.message, Event) for record in log.records()]
