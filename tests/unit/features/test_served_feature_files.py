"""The served-feature log's files: kept for a limited time and size, and without the rows of erased users."""

from pathlib import Path

import pytest

from features import served_feature_files
from features.parity import ServedRow, read_served_features
from features.served_feature_files import KEEP_S, ServedFeatureFiles
from reaseq.errors import ArchiveUnavailable


def served(entity_id: str, now_ms: int = 0, entity: str = "user") -> ServedRow:
    return ServedRow(entity, entity_id, now_ms, 1, 1, {})  # type: ignore[arg-type]


class Clock:
    """The time that the files see."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(served_feature_files, "time", clock)
    return clock


def test_erasure_removes_the_rows_of_the_users_and_no_others(tmp_path: Path, clock: Clock) -> None:
    files = ServedFeatureFiles(tmp_path)
    files.append([served("u1"), served("u1", entity="item"), served("u11")])
    clock.now_s += KEEP_S / 2 + 1  # in another file
    files.append([served("u2"), served("u1", 5)])

    files.erase(["u1", "absent"])

    kept = [(row.entity, row.entity_id) for row in read_served_features(tmp_path)]
    assert kept == [("item", "u1"), ("user", "u11"), ("user", "u2")]
    files.append([served("u3")])  # goes on in the rewritten file
    assert len(list(tmp_path.glob("rows*"))) == 2


def test_erasure_removes_a_line_that_was_cut(tmp_path: Path) -> None:
    files = ServedFeatureFiles(tmp_path)
    files.append([served("v")])
    (file,) = tmp_path.glob("rows*")
    file.write_bytes(file.read_bytes() + b'{"entity":"user","entity_id":"u')

    files.erase(["u"])

    assert [row.entity_id for row in read_served_features(tmp_path)] == ["v"]


def test_no_row_is_kept_longer_than_the_limit_and_recent_ones_are(tmp_path: Path, clock: Clock) -> None:
    files, start_s, step_s = ServedFeatureFiles(tmp_path), clock.now_s, KEEP_S / 10
    for step in range(40):
        clock.now_s = start_s + step * step_s
        files.append([served(str(step))])
        oldest = int(read_served_features(tmp_path)[0].entity_id)

        assert min(step, 4) <= step - oldest <= 10


def test_erasure_of_anyone_removes_expired_files(tmp_path: Path, clock: Clock) -> None:
    files = ServedFeatureFiles(tmp_path)
    files.append([served("u")])
    clock.now_s += KEEP_S + 1

    files.erase(["v"])

    assert not list(tmp_path.glob("rows*"))


def test_size_is_limited(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_feature_files, "FILE_LIMIT_BYTES", 1000)
    files = ServedFeatureFiles(tmp_path)
    for number in range(100):
        clock.now_s += 1
        files.append([served(str(number))])

    assert sum(file.stat().st_size for file in tmp_path.glob("rows*")) < 2200
    assert read_served_features(tmp_path)[-1].entity_id == "99"


def test_folder_that_cannot_be_rewritten_makes_the_erasure_wait(tmp_path: Path) -> None:
    files = ServedFeatureFiles(tmp_path)
    (tmp_path / "rows-1.jsonl").mkdir()

    with pytest.raises(ArchiveUnavailable):
        files.erase(["u"])


def test_erasure_without_a_log_does_nothing(tmp_path: Path) -> None:
    ServedFeatureFiles(tmp_path / "absent").erase(["u"])

    assert not (tmp_path / "absent").exists()
