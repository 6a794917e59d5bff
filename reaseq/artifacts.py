"""Published models: immutable directories and one pointer to the one in force.

<models>/<kind>/<version>/…            written aside, renamed into place, never changed after
<models>/<kind>/<version>/manifest.json   written last: a directory without it is not a model
<models>/<kind>/current                the version in force, replaced atomically
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from reaseq.errors import ArtifactError

MANIFEST = "manifest.json"
POINTER = "current"


@dataclass(frozen=True)
class Artifact:
    """A published model on disk."""

    kind: str
    version: str
    path: Path
    facts: dict[str, Any]  # what it was made for and how good it is

    def require(self, **expected: str | int) -> None:
        """Raise ArtifactError unless the model was made for exactly these features (space, vocabulary, …)."""
        for name, value in expected.items():
            if self.facts.get(name) != value:
                raise ArtifactError(
                    f"{self.kind} {self.version} was made for {name} {self.facts.get(name)!r}, this system has {value!r}"
                )


def publish(models: Path, kind: str, label: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> Artifact:
    """Write a version and point to it. The version is `label` and a hash of the files, so equal models are one version."""
    digests = {name: sha256(content).hexdigest() for name, content in sorted(files.items())}
    version = f"{label}-{sha256(json.dumps(digests).encode()).hexdigest()[:8]}"
    folder = models / kind / version
    if not (folder / MANIFEST).exists():
        aside = models / kind / f".{version}.{os.getpid()}"
        aside.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (aside / name).write_bytes(content)
        manifest = {"kind": kind, "version": version, "files": digests, "facts": dict(facts)}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
        aside.rename(folder)
    write_whole(models / kind / POINTER, version.encode())
    return Artifact(kind, version, folder, dict(facts))


def is_published(models: Path, kind: str) -> bool:
    """Whether any version of that kind is in force."""
    return (models / kind / POINTER).exists()


def current(models: Path, kind: str) -> Artifact:
    """The version in force. Raises ArtifactError when there is none, or when it is not whole."""
    pointer = models / kind / POINTER
    if not is_published(models, kind):
        raise ArtifactError(f"no {kind} model is published in {models}: run `reaseq demo` or `reaseq train` first")
    return load_version(models, kind, pointer.read_text().strip())


def load_version(models: Path, kind: str, version: str) -> Artifact:
    """A certain version. Raises ArtifactError when it is not whole."""
    folder = models / kind / version
    if not (folder / MANIFEST).exists():
        raise ArtifactError(f"{folder} has no {MANIFEST}: the publication did not finish")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        changed = [
            name for name, digest in manifest["files"].items() if sha256((folder / name).read_bytes()).hexdigest() != digest
        ]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} cannot be read: {error}") from error
    if changed:
        raise ArtifactError(f"{folder / changed[0]} is not what the manifest says: the file was changed or cut")
    return Artifact(kind, version, folder, manifest["facts"])


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)
