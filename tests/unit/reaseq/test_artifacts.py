"""Published models: found by their pointer, verified by their manifest."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from reaseq.artifacts import Artifact, current, list_versions, load_newest, load_version, publish
from reaseq.errors import ArtifactError


def test_publish_is_idempotent_and_require_compares_facts(tmp_path: Path) -> None:
    first = publish(tmp_path, "ranker", "a", {"weights": b"1"}, {"space_id": "s"})
    again = publish(tmp_path, "ranker", "a", {"weights": b"1"}, {"space_id": "s"})

    assert current(tmp_path, "ranker") == first == again
    first.require(space_id="s")
    with pytest.raises(ArtifactError, match="space_id"):
        first.require(space_id="other")


def test_a_missing_unfinished_or_damaged_model_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="reaseq demo"):
        current(tmp_path, "ranker")
    artifact = publish(tmp_path, "ranker", "a", {"weights": b"1"}, {})
    (artifact.path / "weights").write_bytes(b"2")
    with pytest.raises(ArtifactError, match="weights does not match the manifest"):
        current(tmp_path, "ranker")
    (artifact.path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        current(tmp_path, "ranker")


def publish_in_order(models: Path, count: int) -> list[str]:
    """Publish versions, each a second after the previous one; returns their names."""
    names = []
    for second in range(count):
        artifact = publish(models, "ranker", f"v{second}", {"weights": str(second).encode()}, {})
        os.utime(artifact.path / "manifest.json", (second, second))
        names.append(artifact.version)
    return names


def read_weights(artifact: Artifact) -> bytes:
    return (artifact.path / "weights").read_bytes()


def rewrite_manifest(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(change(manifest)))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_link(path: Path, target: Path) -> None:
    path.rename(path.with_name(".moved"))
    path.symlink_to(target)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


POINTER_FAULTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda pointer: pointer.write_bytes(b""),
    "cut": lambda pointer: pointer.write_bytes(pointer.read_bytes()[:-3]),
    "zeros": lambda pointer: pointer.write_bytes(bytes(16)),
    "not text": lambda pointer: pointer.write_bytes(b"\xff\xfe"),
    "gone": lambda pointer: pointer.unlink(),
    "a folder": replace_by_folder,
    "another folder": lambda pointer: pointer.write_text("../ranker/v0"),
    "too long": lambda pointer: pointer.write_text("v" * 5000),
    "a pipe": lambda pointer: replace_by_pipe(pointer),
    "a link to itself": lambda pointer: replace_by_link(pointer, pointer),
}
VERSION_FAULTS: dict[str, Callable[[Path], object]] = {
    "a file is missing": lambda folder: (folder / "weights").unlink(),
    "a file is truncated": lambda folder: (folder / "weights").write_bytes(b""),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a truncated manifest": lambda folder: (folder / "manifest.json").write_text("{"),
    "a manifest of another format": lambda folder: rewrite_manifest(folder, lambda manifest: [manifest]),
    "a manifest without files": lambda folder: rewrite_manifest(folder, lambda manifest: {"facts": {}}),
    "files of another type": lambda folder: rewrite_manifest(folder, lambda manifest: manifest | {"files": ["weights"]}),
    "a file elsewhere": lambda folder: rewrite_manifest(folder, lambda manifest: manifest | {"files": {"../x": "digest"}}),
    "a device": lambda folder: rewrite_manifest(folder, lambda manifest: manifest | {"files": {"/dev/zero": "digest"}}),
    "a pipe": lambda folder: replace_by_pipe(folder / "weights"),
    "a pipe as manifest": lambda folder: replace_by_pipe(folder / "manifest.json"),
    "a link to itself": lambda folder: replace_by_link(folder, folder),
    "a link to another version": lambda folder: replace_by_link(folder, next(folder.parent.glob("v0-*"))),
    "another kind": lambda folder: rewrite_manifest(folder, lambda manifest: manifest | {"kind": "behavior"}),
    "a deeply nested manifest": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
}


@pytest.mark.parametrize("fault", POINTER_FAULTS)
def test_start_uses_the_newest_whole_version_if_the_pointer_is_damaged(tmp_path: Path, fault: str) -> None:
    *_, newest = publish_in_order(tmp_path, 3)
    POINTER_FAULTS[fault](tmp_path / "ranker" / "current")

    with pytest.raises(ArtifactError, match="ranker"):
        current(tmp_path, "ranker")
    with capture_logs() as logs:
        assert load_newest(tmp_path, "ranker", read_weights) == b"2"

    (line,) = logs
    assert (line["event"], line["kind"], line["loaded_instead"]) == ("model_rejected", "ranker", newest)
    assert "ranker" in line["reason"]


@pytest.mark.parametrize("fault", VERSION_FAULTS)
def test_start_uses_the_version_before_a_damaged_one(tmp_path: Path, fault: str) -> None:
    _, before, damaged = publish_in_order(tmp_path, 3)
    VERSION_FAULTS[fault](tmp_path / "ranker" / damaged)

    with pytest.raises(ArtifactError, match=damaged):
        current(tmp_path, "ranker")
    with capture_logs() as logs:
        assert load_newest(tmp_path, "ranker", read_weights) == b"1"

    assert logs[0]["loaded_instead"] == before and damaged in logs[0]["reason"]


def test_start_uses_an_older_version_if_the_code_cannot_read_the_current_one(tmp_path: Path) -> None:
    _, _, newest = publish_in_order(tmp_path, 3)

    def load(artifact: Artifact) -> bytes:
        with artifact.reading():
            return {b"0": b"old", b"1": b"older"}[read_weights(artifact)]

    with capture_logs() as logs:
        assert load_newest(tmp_path, "ranker", load) == b"older"
    assert newest in logs[0]["reason"] and "KeyError" in logs[0]["reason"]


def test_start_names_the_fault_of_the_current_version_if_no_version_can_be_loaded(tmp_path: Path) -> None:
    older, newest = publish_in_order(tmp_path, 2)
    for version in (older, newest):
        (tmp_path / "ranker" / version / "weights").write_bytes(b"")

    with pytest.raises(ArtifactError, match=f"{newest}/weights does not match"):
        load_newest(tmp_path, "ranker", read_weights)


def test_version_that_is_removed_while_versions_are_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_in_order(tmp_path, 2)
    (tmp_path / "ranker" / "current").unlink()
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [path / "removed" / "manifest.json", *glob(path, pattern)])

    assert load_newest(tmp_path, "ranker", read_weights) == b"1"


def test_unfinished_version_is_not_listed(tmp_path: Path) -> None:
    newest, *_ = publish_in_order(tmp_path, 1)
    unfinished = tmp_path / "ranker" / ".v9.0123"
    unfinished.mkdir()
    (unfinished / "manifest.json").write_text("{}")

    assert list_versions(tmp_path, "ranker") == [newest]


@pytest.mark.parametrize("name", ["", ".", "..", "../ranker/v", "/etc", "a/b", "\x00", "\ud800", "v" * 5000])
def test_a_name_that_no_version_can_have_is_rejected(tmp_path: Path, name: str) -> None:
    publish_in_order(tmp_path, 1)

    with pytest.raises(ArtifactError):
        load_version(tmp_path, "ranker", name)
