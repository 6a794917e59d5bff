"""Backfill: resumes after an interruption, keeps the rate, and leaves invalid rows to the stream."""

import json
from pathlib import Path

import pytest

from streams.delivery.messages import RawRecord
from streams.operations.backfill import backfill
from streams.operations.catalog_file import CatalogFile
from tests.fakes.parquet import write_parquet


class FakeProducer:
    """Keeps what is produced; fails after `fails_after` records."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.sent: list[RawRecord] = []
        self._fails_after = fails_after

    def send_raw(self, records: list[RawRecord]) -> int:
        if self._fails_after is not None and len(self.sent) >= self._fails_after:
            raise ConnectionError("the broker is gone")
        self.sent += records
        return len(records)


def send(path: Path, producer: FakeProducer, progress_file: Path, rate: float = 1e6) -> tuple[int, int]:
    """Backfill a catalog; returns the rows produced and the sum of the reported progress."""
    reported: list[int] = []
    produced = backfill(CatalogFile(path), producer, progress_file, rate, reported.append)  # type: ignore[arg-type]
    return produced, sum(reported)


def test_backfill_resumes_where_it_was_interrupted(tmp_path: Path) -> None:
    ids = [str(number) for number in range(4500)]
    path = write_parquet(tmp_path / "c.parquet", item_id=ids, title=ids)
    progress_file, first, second = tmp_path / "state" / "progress.json", FakeProducer(fails_after=2000), FakeProducer()
    with pytest.raises(ConnectionError):
        send(path, first, progress_file)

    assert send(path, second, progress_file) == (2500, 4500)
    assert [record.key.decode() for record in (*first.sent, *second.sent) if record.key] == ids
    assert send(path, FakeProducer(), progress_file)[0] == 0


def test_invalid_row_is_sent_as_it_is(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", item_id=["1", None], title=["", "no id"])
    producer = FakeProducer()
    send(path, producer, tmp_path / "p.json")

    assert [record.key for record in producer.sent] == [b"1", b""]
    assert "title" not in json.loads(producer.sent[0].value or b"")


def test_backfill_keeps_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("streams.operations.replay.time.sleep", slept.append)
    ids = [str(number) for number in range(30)]
    send(write_parquet(tmp_path / "c.parquet", item_id=ids, title=ids), FakeProducer(), tmp_path / "p.json", rate=10.0)

    assert len(slept) == 3
    assert slept[-1] == pytest.approx(3.0, abs=0.5), "30 items at 10 per second, with no time passing during sleep"
