"""Models in force in this service, and everything that is published."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reaseq.artifacts import current, is_published, list_versions
from reaseq.errors import ArtifactError


@dataclass(frozen=True)
class PublishedModel:
    """One kind of model: the published version with the facts of its manifest, and the other versions."""

    kind: str
    version: str  # empty if it cannot be read
    facts: dict[str, Any]
    other_versions: tuple[str, ...]
    error: str = ""  # why the published version cannot be read


@dataclass(frozen=True)
class ModelsInForce:
    """What this service ranks with."""

    ranker: str
    vocabulary: str
    items: int
    items_on_sale: int
    item_table_mib: float


@dataclass(frozen=True)
class Models:
    """Models in force, and one published model per kind."""

    in_force: ModelsInForce
    published: list[PublishedModel]


def list_published(models_dir: Path) -> list[PublishedModel]:
    """Every kind of model that has a published version, by name."""
    kinds = sorted(path.name for path in models_dir.iterdir() if is_published(models_dir, path.name))
    return [_read_published(models_dir, kind) for kind in kinds]


def _read_published(models_dir: Path, kind: str) -> PublishedModel:
    versions = sorted(list_versions(models_dir, kind))
    try:
        artifact = current(models_dir, kind)
    except ArtifactError as error:
        return PublishedModel(kind, "", {}, tuple(versions), str(error))
    others = tuple(version for version in versions if version != artifact.version)
    return PublishedModel(kind, artifact.version, artifact.facts, others)
