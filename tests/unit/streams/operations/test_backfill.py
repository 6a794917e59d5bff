"""A shop's own files: read as items and events, sent at a rate, resumed where they were stopped."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reaseq.errors import CatalogError
from reaseq.records import Event
from streams.contract.messages import RawRecord
from streams.operations.backfill import CatalogFile, EventLogFile, backfill


class StandInProducer:
    """Keeps what is produced; fails when told to."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.sent: list[RawRecord] = []
        self._fails_after = fails_after

    def send_raw(self, records: list[RawRecord]) -> int:
        if self._fails_after is not None and len(self.sent) >= self._fails_after:
            raise ConnectionError("the broker is gone")
        self.sent += records
        return len(records)


def written(path: Path, **columns: Sequence[object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def send(path: Path, producer: StandInProducer, state: Path, rate: float = 1e6) -> tuple[int, int]:
    seen: list[int] = []
    produced = backfill(CatalogFile(path), producer, state, rate, seen.append)  # type: ignore[arg-type]
    return produced, sum(seen)


def test_columns_become_fields_and_the_rest_attributes(tmp_path: Path) -> None:
    path = written(
        tmp_path / "c.parquet",
        item_id=["1", "2"],
        title=["A mug", "A lamp"],
        price=[2.5, None],
        seller_id=["s", None],
        brand=["Acme", None],
        size=[3, 4],
    )

    mug, lamp = CatalogFile(path).items()

    assert (mug.title, mug.price, mug.seller_id, mug.attributes) == ("A mug", 2.5, "s", {"brand": "Acme", "size": "3"})
    assert (lamp.price, lamp.seller_id, lamp.attributes) == (None, "", {"size": "4"})
    assert mug.event_time_ms == int(path.stat().st_mtime * 1000)


def test_a_csv_is_a_table_as_well(tmp_path: Path) -> None:
    path = tmp_path / "c.CSV"
    path.write_text('\ufeffsku,name,price,color\n007,"A mug, blue",2.5,blue\n8,A lamp,,\n', encoding="utf-8")

    table = CatalogFile(path, {"item_id": "sku", "title": "name"})
    mug, lamp = table.items()

    assert len(table) == 2
    assert (mug.item_id, mug.title, mug.price, mug.attributes) == ("007", "A mug, blue", 2.5, {"color": "blue"})
    assert (lamp.item_id, lamp.price, lamp.attributes) == ("8", None, {})


def test_lists_become_one_text(tmp_path: Path) -> None:
    path = written(tmp_path / "c.parquet", item_id=["1"], title=["A mug"], categories=[["Home", "Kitchen"]])

    assert next(CatalogFile(path).items()).attributes == {"categories": "Home > Kitchen"}


AT_NOON_MS = 1_318_939_200_000


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("event_time_ms", AT_NOON_MS),
        ("event_time_s", AT_NOON_MS // 1000),
        ("event_time", "2011-10-18 12:00:00"),
        ("event_time", "2011-10-18T14:00:00+02:00"),
        ("event_time", datetime(2011, 10, 18, 12)),
    ],
)
def test_an_event_is_a_row_with_a_time_however_it_is_written(tmp_path: Path, column: str, value: object) -> None:
    path = written(tmp_path / "e.parquet", user=["u", "u"], item_id=[7, 7], **{column: [value, value]})

    first, second = (msgspec.convert(message, Event) for message in EventLogFile(path, {"user_id": "user"}).messages())

    assert (first.user_id, first.item_id, first.type, first.event_time_ms) == ("u", "7", "purchase", AT_NOON_MS)
    assert first.event_id == second.event_id, "equal rows are one event"


def test_what_a_log_says_of_its_events_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("event_id,user_id,item_id,type,quantity,event_time_s\ne1,u,i,view,2,1318939200.5\n")

    (event,) = (msgspec.convert(message, Event) for message in EventLogFile(path).messages())

    assert (event.event_id, event.type, event.quantity, event.event_time_ms) == ("e1", "view", 2.0, AT_NOON_MS + 500)


def test_a_log_without_a_time_is_refused_and_a_wrong_one_is_left_to_the_stream(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no column event_time"):
        EventLogFile(written(tmp_path / "e.parquet", user_id=["u"], item_id=["i"], when=[1]))
    (message,) = EventLogFile(written(tmp_path / "f.parquet", user_id=["u"], item_id=["i"], event_time=["soon"])).messages()
    assert message["event_time_ms"] == "soon"


def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no column title"):
        CatalogFile(written(tmp_path / "c.parquet", item_id=["1"], name=["x"]))
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(CatalogError, match=r"t\.parquet"):
        CatalogFile(tmp_path / "t.parquet")


def test_a_row_that_is_no_item_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "c.parquet", item_id=["1", "2"], title=["A mug", ""])

    with pytest.raises(CatalogError, match=r"row 1: .*title"):
        list(CatalogFile(path).items())


def test_a_backfill_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    ids = [str(number) for number in range(4500)]
    path = written(tmp_path / "c.parquet", item_id=ids, title=ids)
    state, first, second = tmp_path / "state" / "progress.json", StandInProducer(fails_after=2000), StandInProducer()
    with pytest.raises(ConnectionError):
        send(path, first, state)

    assert send(path, second, state) == (2500, 4500)
    assert [record.key.decode() for record in (*first.sent, *second.sent) if record.key] == ids
    assert send(path, StandInProducer(), state)[0] == 0


def test_a_row_that_is_wrong_is_sent_as_it_is_for_the_stream_to_bury(tmp_path: Path) -> None:
    path = written(tmp_path / "c.parquet", item_id=["1", None], title=["", "no id"])
    producer = StandInProducer()
    send(path, producer, tmp_path / "p.json")

    assert [record.key for record in producer.sent] == [b"1", b""]
    assert "title" not in json.loads(producer.sent[0].value or b"")


def test_a_rate_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("streams.operations.backfill.time.sleep", slept.append)
    ids = [str(number) for number in range(30)]
    send(written(tmp_path / "c.parquet", item_id=ids, title=ids), StandInProducer(), tmp_path / "p.json", rate=10.0)

    assert len(slept) == 3
    assert slept[-1] == pytest.approx(3.0, abs=0.5), "30 items at 10 a second, when no time passes while asleep"


def test_events_come_in_order_of_time_and_end_before_the_day_that_was_named(tmp_path: Path) -> None:
    path = written(
        tmp_path / "e.parquet",
        user_id=["b", "b", "a", "a"],
        item_id=["1", "2", "3", "4"],
        event_time=["2014-01-02", "2014-01-01", "2013-12-31", "never"],
    )

    def items(log: EventLogFile) -> list[str]:
        return [message["item_id"] for message in log.messages()]

    assert items(EventLogFile(path)) == ["4", "3", "2", "1"], "what has no time comes first, for the stream to to_dead_letter"
    until = EventLogFile(path, until_ms=1_388_534_400_000)  # 2014-01-01
    assert items(until) == ["4", "3"] and len(until) == 2
    assert until.identity == EventLogFile(path).identity, "a later call goes on"


def test_items_without_a_time_are_listed_since_a_day_that_may_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "c.parquet", item_id=["1", "2"], title=["A mug", "A lamp"], event_time_ms=[5, None])

    assert [item.event_time_ms for item in CatalogFile(path, listed_ms=1000).items()] == [5, 1000]
    assert CatalogFile(path, listed_ms=1000).identity != CatalogFile(path).identity


def test_a_file_that_is_read_with_other_names_is_sent_anew(tmp_path: Path) -> None:
    path = written(tmp_path / "c.parquet", item_id=["1"], title=["A mug"], name=["Mug"])

    assert CatalogFile(path).identity != CatalogFile(path, {"title": "name"}).identity


def test_what_is_no_number_is_not_there(tmp_path: Path) -> None:
    path = written(tmp_path / "c.parquet", item_id=["1"], title=["A mug"], price=[float("nan")])

    assert next(CatalogFile(path).items()).price is None


@pytest.mark.parametrize(
    ("value", "attributes"),
    [
        ("red", {"attributes": "red"}),
        ({"color": "red", "size": None}, {"color": "red"}),
        ([("color", "red")], {"color": "red"}),
    ],
)
def test_a_column_called_attributes_is_taken_as_what_it_is(tmp_path: Path, value: object, attributes: dict[str, str]) -> None:
    column = pa.array([value], pa.map_(pa.string(), pa.string()) if isinstance(value, list) else None)
    pq.write_table(pa.table({"item_id": ["1"], "title": ["A mug"], "attributes": column}), tmp_path / "c.parquet")

    assert next(CatalogFile(tmp_path / "c.parquet").items()).attributes == attributes


def test_a_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"item_id,title\n" + b"1,A mug\n" * 5000 + b"2,\xff\xfe\n")

    with pytest.raises(CatalogError, match=r"c\.csv"):
        list(CatalogFile(path).items())


def test_events_that_differ_in_quantity_are_two(tmp_path: Path) -> None:
    path = written(tmp_path / "e.parquet", user_id=["u", "u"], item_id=["i", "i"], event_time_s=[1, 1], quantity=[1, 2])

    first, second = EventLogFile(path).messages()
    assert first["event_id"] != second["event_id"]
