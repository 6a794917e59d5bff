"""Catalogues in parquet: read as items, sent at a rate, resumed where they were stopped."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reaseq.errors import CatalogueError
from streams.catalogue import Catalogue, backfill
from streams.messages import RawRecord


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
    produced = backfill(Catalogue(path), producer, state, rate, seen.append)  # type: ignore[arg-type]
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

    mug, lamp = Catalogue(path).items()

    assert (mug.title, mug.price, mug.seller_id, mug.attributes) == ("A mug", 2.5, "s", {"brand": "Acme", "size": "3"})
    assert (lamp.price, lamp.seller_id, lamp.attributes) == (None, "", {"size": "4"})
    assert mug.event_time_ms == int(path.stat().st_mtime * 1000)


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="no column title"):
        Catalogue(written(tmp_path / "c.parquet", item_id=["1"], name=["x"]))
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(CatalogueError, match=r"t\.parquet"):
        Catalogue(tmp_path / "t.parquet")


def test_a_row_that_is_no_item_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "c.parquet", item_id=["1", "2"], title=["A mug", ""])

    with pytest.raises(CatalogueError, match=r"row 1: .*title"):
        list(Catalogue(path).items())


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
    assert json.loads(producer.sent[0].value or b"")["title"] == ""


def test_a_rate_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("streams.catalogue.time.sleep", slept.append)
    ids = [str(number) for number in range(30)]
    send(written(tmp_path / "c.parquet", item_id=ids, title=ids), StandInProducer(), tmp_path / "p.json", rate=10.0)

    assert len(slept) == 3
    assert slept[-1] == pytest.approx(3.0, abs=0.5), "30 items at 10 a second, when no time passes while asleep"
