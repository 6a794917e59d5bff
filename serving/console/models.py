"""Which models, spaces and vocabularies are in force, and what else is published."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reaseq.artifacts import MANIFEST, current, is_published
from reaseq.errors import ArtifactError


@dataclass(frozen=True)
class Published:
    """One kind of model: the version in force with its facts, and the others. `broken` says why it cannot be read."""

    kind: str
    version: str
    facts: dict[str, Any]
    others: tuple[str, ...]
    broken: str = ""


def published(models_dir: Path) -> list[Published]:
    """Every kind of model of which a version is in force."""
    kinds = sorted(path.name for path in models_dir.iterdir() if is_published(models_dir, path.name))
    return [_published(models_dir, kind) for kind in kinds]


def _published(models_dir: Path, kind: str) -> Published:
    versions = sorted(path.parent.name for path in (models_dir / kind).glob(f"*/{MANIFEST}"))
    try:
        artifact = current(models_dir, kind)
    except ArtifactError as error:
        return Published(kind, "", {}, tuple(versions), str(error))
    return Published(kind, artifact.version, artifact.facts, tuple(v for v in versions if v != artifact.version))
