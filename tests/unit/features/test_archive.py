"""The archive: atomic appends, compaction, and erasure requests."""

import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Barrier

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from features import archive_compaction
from features.archive import Archive
from features.archive_erasure import REMEMBER_S, Erasure
from features.definitions import VIEWS
from reaseq.errors import ArchiveUnavailable
from reaseq.records import History, Inferred, UserFeatures
from tests.fakes.catalog import VOCABULARY

FEBRUARY_MS = 32 * 86_400_000


def user(user_id: str, time_ms: int, forgotten_ms: int = 0) -> UserFeatures:
    items = () if time_ms == forgotten_ms else ("i",)
    times, numbers = (time_ms,) * len(items), (1,) * len(items)
    history = History(item_ids=items, types=numbers, times_ms=times, event_keys=numbers, forgotten_ms=forgotten_ms)
    return UserFeatures(user_id=user_id, event_time_ms=time_ms, events_seen=1, history=history, inferred=Inferred())


def write_to_full_disk(table: object, path: Path, **options: object) -> None:
    """A fake of `pq.write_table` on a full disk."""
    path.write_bytes(b"half of it")
    raise OSError(28, "No space left on device")


def rows(folder: Path, view: str = "user_history") -> list[tuple[str, int]]:
    table = pq.read_table(folder / view)
    times_ms = [int(at.timestamp() * 1000) for at in table["event_timestamp"].to_pylist()]
    return sorted(zip(table["user_id"].to_pylist(), times_ms, strict=True))


def test_erasure_request_removes_older_rows_for_good(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY)
    archive.create()
    archive.append([user("u", 1000), user("v", 1000)])
    archive.append([user("u", 2000), user("v", 6000), user("u", 5000)])

    archive.append([user("v", 7000), user("u", 5000, forgotten_ms=5000), user("u", 8000, forgotten_ms=5000)])

    expected = [("u", 8000), ("v", 1000), ("v", 6000), ("v", 7000)]
    for view in ("user_history", "user_inferred"):
        assert rows(tmp_path, view) == expected
    archive.append([user("u", 2000), user("u", 5000, forgotten_ms=5000)])  # both redelivered
    assert rows(tmp_path) == expected
    assert archive.erasure_requests([user("u", 8000, forgotten_ms=5000)]) == {}
    assert archive.erasure_requests([user("u", 9000, forgotten_ms=8500)]) == {"u": 8500}


def test_latest_erasure_request_of_a_batch_counts(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY)
    archive.create()
    archive.append([user("u", 4000)])

    archive.append([user("u", 8000, forgotten_ms=5000), user("u", 3000, forgotten_ms=3000)])  # the second one came late

    assert rows(tmp_path) == [("u", 8000)]


def test_revision_orders_rows_of_the_same_time(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY)
    archive.create()
    archive.append([replace(user("u", 1000), events_seen=events_seen) for events_seen in (3, 1, 2)])

    table = pq.read_table(tmp_path / "user_history").sort_by("version_timestamp")

    assert table["revision"].to_pylist() == sorted(set(table["revision"].to_pylist()))
    assert len(set(table["version_timestamp"].to_pylist())) == 3


def test_late_records_of_erased_users_are_dropped_by_every_worker(tmp_path: Path) -> None:
    one, other = Archive(tmp_path, VOCABULARY), Archive(tmp_path, VOCABULARY)
    one.create()
    one.append([user("u", 5000, forgotten_ms=5000)])
    other.append([user("u", 1000)])
    one.append([user("v", 6000, forgotten_ms=6000)])

    other.append([user("u", 1000), user("v", 1000), user("w", 1000)])

    assert rows(tmp_path) == [("w", 1000)]


def test_erasure_request_is_carried_out_for_a_user_who_returns_at_once(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY)
    archive.create()
    archive.append([user("u", 1000)])

    archive.append([user("u", 8000, forgotten_ms=5000)])  # the only record with the request

    assert rows(tmp_path) == [("u", 8000)]


def test_workers_create_the_same_archive_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, all_have_written = pq.write_table, Barrier(3)

    def write_and_wait(*args: object, **options: object) -> None:
        write(*args, **options)
        all_have_written.wait(timeout=10)

    monkeypatch.setattr(pq, "write_table", write_and_wait)
    with ThreadPoolExecutor(3) as workers:
        list(workers.map(lambda _: Archive(tmp_path, VOCABULARY).create(), range(3)))

    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["empty.parquet"] * len(VIEWS)


def test_append_to_a_full_disk_raises_and_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path, VOCABULARY)
    archive.create()

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", write_to_full_disk)
        with pytest.raises(ArchiveUnavailable, match="No space left"):
            archive.append([user("u", 1000)])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["empty.parquet"] * len(VIEWS)

    archive.append([user("u", 1000)])
    archive.append([user("u", 1000)])
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", write_to_full_disk)
        with pytest.raises(ArchiveUnavailable, match="No space left"):
            archive.compact(min_files=2)
    archive.compact(min_files=2)
    assert set(rows(tmp_path)) == {("u", 1000)}

    with monkeypatch.context() as patch:
        write, calls = pq.write_table, count()
        patch.setattr(
            pq, "write_table", lambda *args, **options: (write if next(calls) < 1 else write_to_full_disk)(*args, **options)
        )
        with pytest.raises(ArchiveUnavailable, match="No space left"):
            archive.append([user("u", 5000, forgotten_ms=5000)])
    archive.append([user("u", 5000, forgotten_ms=5000)])
    assert rows(tmp_path) == rows(tmp_path, "user_inferred") == []


def test_files_are_rewritten_under_the_lock_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, rename = Archive(tmp_path, VOCABULARY), Path.rename
    archive.create()
    for time_ms in (1000, 2000):
        archive.append([user("u", time_ms), user("v", time_ms)])

    def rename_if_locked(path: Path, target: Path) -> None:
        with (tmp_path / ".lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_if_locked)
    assert archive.compact(min_files=2) == 4
    Erasure(tmp_path).erase({"u": 5000})
    assert {user_id for user_id, _ in rows(tmp_path)} == {"v"}


# ---- compaction


def test_compaction_merges_files_and_drops_duplicate_rows(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY, settle_s=0)
    archive.create()
    for time_ms in (3000, 1000, 2000, 1000):  # the last one is redelivered
        archive.append([user("u", time_ms), user("v", FEBRUARY_MS + time_ms)])

    assert archive.compact(min_files=2) == 4 * 2 * 2  # files, user views, months
    assert archive.compact(min_files=2) == 0

    assert {path.parent.name: path.stem.split("-")[0] for path in (tmp_path / "user_history").glob("*/*.parquet")} == {
        "empty": "empty",
        "1970-01": "compacted",
        "1970-02": "compacted",
    }
    assert [path.name for path in tmp_path.rglob(".*")] == [".lock"]
    expected = [("u", 1000), ("u", 2000), ("u", 3000)]
    assert rows(tmp_path) == [*expected, *(("v", FEBRUARY_MS + time_ms) for _, time_ms in expected)]


def test_compaction_keeps_replaced_files_for_readers(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY, settle_s=3600)
    archive.create()
    for time_ms in (1000, 2000):
        archive.append([user("u", time_ms)])
    listed = list((tmp_path / "user_history").glob("*/*.parquet"))

    archive.compact(min_files=2)
    assert archive.compact(min_files=2) == 0  # replaced files are not compacted again

    assert all(path.exists() for path in listed)
    assert set(rows(tmp_path)) == {("u", 1000), ("u", 2000)}


def test_compaction_deletes_only_abandoned_temporary_files(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY, settle_s=3600)
    archive.create()
    archive.append([user("u", 1000)])
    folder = tmp_path / "user_history" / "1970-01"
    abandoned, in_use = folder / ".a.parquet.1.tmp", folder / ".b.parquet.2.tmp"
    for partial in (abandoned, in_use):
        partial.write_bytes(b"half of it")
    os.utime(abandoned, (0, 0))

    archive.compact(min_files=2)

    assert not abandoned.exists() and in_use.exists()


def test_large_files_are_not_compacted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_compaction, "TARGET_ROWS", 3)
    archive = Archive(tmp_path, VOCABULARY, settle_s=0)
    archive.create()
    written = [("u", time_ms) for time_ms in range(7000)[::1000]]
    for user_id, time_ms in written:
        archive.append([user(user_id, time_ms)])

    assert archive.compact(min_files=2) == 7 * 2  # files, user views
    assert archive.compact(min_files=1) == 0

    sizes = sorted(pq.read_metadata(path).num_rows for path in (tmp_path / "user_history" / "1970-01").glob("*.parquet"))
    assert sizes == [1, 3, 3]
    assert rows(tmp_path) == written


@pytest.mark.parametrize("finished_files", range(4))  # a merged file, its note, another merged file, its note
def test_crash_during_compaction_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_files: int) -> None:
    monkeypatch.setattr(archive_compaction, "TARGET_ROWS", 2)
    archive = Archive(tmp_path, VOCABULARY, settle_s=0)
    archive.create()
    for time_ms in (1000, 2000, 3000):
        archive.append([user("u", time_ms)])
    rename, calls = Path.rename, count()

    def rename_or_crash(path: Path, target: Path) -> None:
        if next(calls) == finished_files:
            raise KeyboardInterrupt
        rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_or_crash)
        with pytest.raises(KeyboardInterrupt):
            archive.compact(min_files=2)
    for _ in range(3):
        archive.compact(min_files=2)

    assert set(rows(tmp_path)) == {("u", 1000), ("u", 2000), ("u", 3000)}


def test_crash_while_replaced_files_are_deleted_does_not_stop_compaction(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY, settle_s=0)
    archive.create()
    for time_ms in (1000, 2000):
        archive.append([user("u", time_ms)])
    replaced = sorted((tmp_path / "user_history").glob("1970-01/*.parquet"))
    archive.compact(min_files=2)
    replaced[0].unlink()

    archive.compact(min_files=2)

    assert not replaced[1].exists()
    assert rows(tmp_path) == [("u", 1000), ("u", 2000)]


def test_erasure_request_removes_rows_from_compacted_and_replaced_files(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY, settle_s=3600)
    archive.create()
    for time_ms in (1000, 2000):
        archive.append([user("u", time_ms), user("v", time_ms)])
    archive.compact(min_files=2)

    archive.append([user("u", 5000, forgotten_ms=5000)])

    assert {user_id for user_id, _ in rows(tmp_path)} == {"v"}


def test_erased_users_are_not_remembered_for_good(tmp_path: Path) -> None:
    archive, request = Archive(tmp_path, VOCABULARY), user("u", 8000, forgotten_ms=5000)
    archive.create()
    archive.append([user("u", 2000), request])
    archive.compact()
    assert archive.erasure_requests([request]) == {}

    for file in tmp_path.glob(".forgotten*"):
        os.utime(file, (time.time() - REMEMBER_S,) * 2)
    archive.compact()

    assert not list(tmp_path.glob(".forgotten*"))
    archive.append([request])  # of a user who has come back: carried out again, to no effect
    assert archive.erasure_requests([request]) == {}
    assert set(rows(tmp_path)) == {("u", 8000)}


def test_erased_user_is_remembered_while_others_are_erased(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY)
    for name in "uvw":
        archive.append([user(name, 8000, forgotten_ms=5000)])

    assert archive.erasure_requests([user(name, 8000, forgotten_ms=5000) for name in "uvw"]) == {}
    assert Archive(tmp_path, VOCABULARY).erasure_requests([user("u", 8000, forgotten_ms=5000)]) == {}


def test_furthest_of_several_requests_counts(tmp_path: Path) -> None:
    archive = Archive(tmp_path, VOCABULARY)

    assert archive.erasure_requests([user("u", 9000, forgotten_ms=8500), user("u", 8000, forgotten_ms=5000)]) == {"u": 8500}
