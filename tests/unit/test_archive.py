"""The archive: what is appended is there whole or not at all, and nothing is left of who asks to be forgotten."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from features.archive import Archive
from reaseq.errors import ArchiveUnavailable
from reaseq.records import History, Inferred, UserFeatures


def user(user_id: str, time_ms: int, forgotten_ms: int = 0) -> UserFeatures:
    items = () if time_ms == forgotten_ms else ("i",)
    times, numbers = (time_ms,) * len(items), (1,) * len(items)
    history = History(item_ids=items, types=numbers, times_ms=times, event_keys=numbers, forgotten_ms=forgotten_ms)
    return UserFeatures(user_id=user_id, event_time_ms=time_ms, events_seen=1, history=history, inferred=Inferred())


def rows(folder: Path, view: str = "user_history") -> list[tuple[str, int]]:
    table = pq.read_table(folder / view)
    times_ms = [int(time.timestamp() * 1000) for time in table["event_timestamp"].to_pylist()]
    return sorted(zip(table["user_id"].to_pylist(), times_ms, strict=True))


def test_nothing_is_left_of_a_user_who_asks_to_be_forgotten(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.create()
    archive.append([user("u", 1000), user("v", 1000)])
    archive.append([user("u", 2000), user("v", 6000)])

    archive.append([user("v", 7000), user("u", 5000, forgotten_ms=5000), user("u", 8000, forgotten_ms=5000)])

    for view in ("user_history", "user_inferred"):
        assert rows(tmp_path, view) == [("u", 8000), ("v", 1000), ("v", 6000), ("v", 7000)]
    archive.append([user("u", 2000), user("u", 5000, forgotten_ms=5000)])  # both delivered again
    assert ("u", 2000) not in rows(tmp_path)


def test_a_disk_without_space_is_waited_for_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path)
    archive.create()

    def full(table: object, where: Path, **options: object) -> None:
        where.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(ArchiveUnavailable, match="No space left"):
            archive.append([user("u", 1000)])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["empty.parquet"] * 4

    archive.append([user("u", 1000)])
    assert rows(tmp_path) == [("u", 1000)]
