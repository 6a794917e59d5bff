"""Event log files: rows become events, sorted by event time."""

from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from reaseq.errors import CatalogError
from reaseq.records import Event
from streams.operations.event_log_file import EventLogFile
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

    first, second = (msgspec.convert(message, Event) for message in EventLogFile(path, {"user_id": "user"}).messages())

    assert (first.user_id, first.item_id, first.type, first.event_time_ms) == ("u", "7", "purchase", NOON_MS)
    assert first.event_id == second.event_id, "equal rows are one event"


def test_optional_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("event_id,user_id,item_id,type,quantity,event_time_s\ne1,u,i,view,2,1318939200.5\n")

    (event,) = (msgspec.convert(message, Event) for message in EventLogFile(path).messages())

    assert (event.event_id, event.type, event.quantity, event.event_time_ms) == ("e1", "view", 2.0, NOON_MS + 500)


def test_log_without_a_time_column_is_rejected_and_an_invalid_time_is_kept(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no column event_time"):
        EventLogFile(write_parquet(tmp_path / "e.parquet", user_id=["u"], item_id=["i"], when=[1]))
    path = write_parquet(tmp_path / "f.parquet", user_id=["u"], item_id=["i"], event_time=["soon"])
    (message,) = EventLogFile(path).messages()
    assert message["event_time_ms"] == "soon"


def test_events_are_sorted_by_time_and_end_before_the_given_day(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "e.parquet",
        user_id=["b", "b", "a", "a"],
        item_id=["1", "2", "3", "4"],
        event_time=["2014-01-02", "2014-01-01", "2013-12-31", "never"],
    )

    def items(log: EventLogFile) -> list[str]:
        return [message["item_id"] for message in log.messages()]

    assert items(EventLogFile(path)) == ["4", "3", "2", "1"], "an event without a valid time comes first"
    until = EventLogFile(path, until_ms=1_388_534_400_000)  # 2014-01-01
    assert items(until) == ["4", "3"] and len(until) == 2
    assert until.identity == EventLogFile(path).identity, "a later call resumes"


def test_events_with_different_quantities_are_different_events(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "e.parquet", user_id=["u", "u"], item_id=["i", "i"], event_time_s=[1, 1], quantity=[1, 2])

    first, second = EventLogFile(path).messages()
    assert first["event_id"] != second["event_id"]
