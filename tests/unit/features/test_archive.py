"""The archive: what is appended is there whole or not at all, and nothing is left of who asks to be forgotten."""

from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from features.archive import Archive
from reaseq.errors import ArchiveUnavailable
from reaseq.records import History, Inferred, UserFeatures
from tests.fakes.catalog import VOCABULARY

FEBRUARY_MS = 32 * 86_400_000


def user(user_id: str, time_ms: int, forgotten_ms: int = 0) -> UserFeatures:
    items = () if time_ms == forgotten_ms else ("i",)
    times, numbers = (time_ms,) * len(items), (1,) * len(items)
    history = History(item_ids=items, types=numbers, times_ms=times, event_keys=numbers, forgotten_ms=forgotten_ms)
    return UserFeatures(user_id=user_id, event_time_ms=time_ms, events_seen=1, history=history, inferred=Inferred())


def full(table: object, where: Path, **options: object) -> None:
    """A stand-in for writing to a disk without space."""
    where.write_bytes(b"half of it")
    raise OSError(28, "No space left on device")


def rows(folder: Path, view: str = "user_history") -> list[tuple[str, int]]:
    table = pq.read_table(folder / view)
    times_ms = [int(time.timestamp() * 1000) for time in table["event_timestamp"].to_pylist()]
    return sorted(zip(table["user_id"].to_pylist(), times_ms, strict=True))


def test_nothing_is_left_of_a_user_who_asks_to_be_forgotten(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY)
    archive.create()
    archive.append([user("u", 1000), user("v", 1000)])
    archive.append([user("u", 2000), user("v", 6000)])

    archive.append([user("v", 7000), user("u", 5000, forgotten_ms=5000), user("u", 8000, forgotten_ms=5000)])

    for view in ("user_history", "user_inferred"):
        assert rows(tmp_path, view) == [("u", 8000), ("v", 1000), ("v", 6000), ("v", 7000)]
    archive.append([user("u", 2000), user("u", 5000, forgotten_ms=5000)])  # both delivered again
    assert ("u", 2000) not in rows(tmp_path)
    assert archive.wishes([user("u", 8000, forgotten_ms=5000)]) == {}
    assert archive.wishes([user("u", 9000, forgotten_ms=8500)]) == {"u": 8500}


def test_the_wish_of_who_is_back_at_once_is_not_lost(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY)
    archive.create()
    archive.append([user("u", 1000)])

    archive.append([user("u", 8000, forgotten_ms=5000)])  # the only record that tells of it

    assert rows(tmp_path) == [("u", 8000)]


def test_a_disk_without_space_is_waited_for_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path, VOCABULARY)
    archive.create()

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(ArchiveUnavailable, match="No space left"):
            archive.append([user("u", 1000)])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["empty.parquet"] * 4

    archive.append([user("u", 1000)])
    assert rows(tmp_path) == [("u", 1000)]

    with monkeypatch.context() as patch:
        write, calls = pq.write_table, count()
        patch.setattr(pq, "write_table", lambda *args, **options: (write if next(calls) < 1 else full)(*args, **options))
        with pytest.raises(ArchiveUnavailable, match="No space left"):
            archive.append([user("u", 5000, forgotten_ms=5000)])
    archive.append([user("u", 5000, forgotten_ms=5000)])
    assert rows(tmp_path) == []


# ---- compaction


def test_few_files_are_made_of_many_with_one_of_each_row(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY, settled_s=0)
    archive.create()
    for time_ms in (3000, 1000, 2000, 1000):  # the last: delivered again
        archive.append([user("u", time_ms), user("v", FEBRUARY_MS + time_ms)])

    assert archive.compact(least_files=2) == 4 * 2 * 2  # views of a user, months
    assert archive.compact(least_files=2) == 0

    assert {path.parent.name: path.name[:5] for path in (tmp_path / "user_history").glob("*/*.parquet")} == {
        "empty": "empty",
        "1970-01": "whole",
        "1970-02": "whole",
    }
    expected = [("u", 1000), ("u", 2000), ("u", 3000)]
    assert rows(tmp_path) == [*expected, *(("v", FEBRUARY_MS + time_ms) for _, time_ms in expected)]


def test_who_reads_meanwhile_finds_every_file_that_he_has_seen(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY, settled_s=3600)
    archive.create()
    for time_ms in (1000, 2000):
        archive.append([user("u", time_ms)])
    seen = list((tmp_path / "user_history").glob("*/*.parquet"))

    archive.compact(least_files=2)

    assert all(path.exists() for path in seen)
    assert archive.compact(least_files=2) == 0  # nor are they taken for new ones
    assert set(rows(tmp_path)) == {("u", 1000), ("u", 2000)}


def test_a_crash_between_the_new_file_and_the_note_of_what_it_replaces_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path, VOCABULARY, settled_s=0)
    archive.create()
    for time_ms in (1000, 2000):
        archive.append([user("u", time_ms)])

    def crash(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", crash)
        with pytest.raises(KeyboardInterrupt):
            archive.compact(least_files=2)
    for _ in range(2):
        archive.compact(least_files=2)

    assert rows(tmp_path) == [("u", 1000), ("u", 2000)]


def test_who_asks_to_be_forgotten_is_gone_from_compacted_and_replaced_files_too(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY, settled_s=3600)
    archive.create()
    for time_ms in (1000, 2000):
        archive.append([user("u", time_ms), user("v", time_ms)])
    archive.compact(least_files=2)

    archive.append([user("u", 5000, forgotten_ms=5000)])

    assert {user_id for user_id, _ in rows(tmp_path)} == {"v"}
