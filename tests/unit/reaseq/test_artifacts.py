"""Published models: found by their pointer, verified by their manifest."""

from pathlib import Path

import pytest

from reaseq.artifacts import current, publish
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
