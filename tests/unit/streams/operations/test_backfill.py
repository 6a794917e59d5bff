"""Backfill: resumes after an interruption, keeps the rate, and makes dead letters of refused rows."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from streams.delivery.dead_letters import DeadLetter
from streams.delivery.messages import RawRecord
from streams.delivery.topics import DEAD_LETTERS, ITEMS
from streams.operations.backfill import Backfill, Progress
from streams.sources.catalog_file import CatalogFile
from streams.sources.spool import Spool
from tests.fakes.parquet import write_parquet


class FakeProducer:
    """Keeps what is produced; fails after `fails_after` records."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.sent: list[RawRecord] = []
        self._fails_after = fails_after

    def send_raw(self, records: Sequence[RawRecord]) -> int:
        if self._fails_after is not None and len(self.sent) >= self._fails_after:
            raise ConnectionError("the broker is gone")
        self.sent += records
        return len(records)


def send(path: Path, producer: FakeProducer, topic_id: str = "t", rate: float = 1e6) -> tuple[int, int]:
    """Backfill a catalog; returns the rows produced and the sum of the reported progress."""
    reported: list[int] = []
    source, state = CatalogFile(path), path.parent / "state"
    with Spool(source, state) as spool:
        backfill = Backfill(spool, path.name, ITEMS, producer, 1_000_000)
        produced = backfill.run(Progress(state, topic_id, source), rate, on_progress=reported.append)
    return produced, sum(reported)


def test_backfill_resumes_where_it_was_interrupted(tmp_path: Path) -> None:
    ids = [str(number) for number in range(4500)]
    path = write_parquet(tmp_path / "c.parquet", item_id=ids, title=ids)
    first, second = FakeProducer(fails_after=2000), FakeProducer()
    with pytest.raises(ConnectionError):
        send(path, first)

    assert send(path, second) == (2500, 4500)
    assert [record.key.decode() for record in (*first.sent, *second.sent) if record.key] == ids
    assert send(path, FakeProducer())[0] == 0


def test_file_is_sent_again_to_another_topic_or_one_that_was_created_anew(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", item_id=["1"], title=["A mug"])

    assert [send(path, FakeProducer(), topic_id)[0] for topic_id in ("a", "a", "b")] == [1, 0, 1]


def test_refused_row_becomes_a_dead_letter_that_names_the_field_and_the_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", item_id=["1", None, "3"], title=["", "no id", "A mug"])
    producer = FakeProducer()
    send(path, producer)

    assert [(record.topic, record.key) for record in producer.sent] == [
        (DEAD_LETTERS.name, b"items/c.parquet/1/backfill"),
        (DEAD_LETTERS.name, b"items/c.parquet/2/backfill"),
        (ITEMS.name, b"3"),
    ]
    without_title, without_id = map(DeadLetter.from_record, producer.sent[:2])
    assert (without_title.stage, without_title.reason) == ("backfill", "refused_row")
    assert (without_title.message, without_title.record.key) == ("c.parquet, row 1: title is missing", b"1")
    assert (without_id.message, without_id.record.topic) == ("c.parquet, row 2: item_id is missing", "items")
    assert json.loads(without_id.record.value or b"") == {"item_id": None, "title": "no id"}


def test_backfill_keeps_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("streams.operations.replay.time.sleep", slept.append)
    ids = [str(number) for number in range(30)]
    send(write_parquet(tmp_path / "c.parquet", item_id=ids, title=ids), FakeProducer(), rate=10.0)

    assert len(slept) == 3
    assert slept[-1] == pytest.approx(3.0, abs=0.5), "30 items at 10 per second, with no time passing during sleep"
