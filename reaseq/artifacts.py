"""Published artifacts: immutable directories and one pointer to the current version of each kind.

<models>/<kind>/<version>/…               written under a temporary name, then renamed; never changed afterwards
<models>/<kind>/<version>/manifest.json   written last: a directory without it is incomplete
<models>/<kind>/current                   names the current version; replaced atomically

This module does not import torch, so that commands which only need to know what is published start at once; models with
weights are in `reaseq.model_artifacts`.
"""

import json
import uuid
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
    """A published version on disk."""

    kind: str
    version: str
    path: Path
    facts: dict[str, Any]  # what it requires (space, vocabulary, …) and how it was measured

    def require(self, **expected: str | int) -> None:
        """Raise ArtifactError unless the artifact was made for exactly these features (space, vocabulary, …)."""
        for name, value in expected.items():
            if self.facts.get(name) != value:
                raise ArtifactError(
                    f"{self.kind} {self.version} was made for {name} {self.facts.get(name)!r}, but this system uses {value!r}: "
                    "train it again"
                )


def publish(models: Path, kind: str, label: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> Artifact:
    """Write a version and make it current.

    The version is `label` and a hash of the files, so equal files always make the same version.
    """
    digests = {name: sha256(content).hexdigest() for name, content in sorted(files.items())}
    version = f"{label}-{sha256(json.dumps(digests).encode()).hexdigest()[:8]}"
    folder = models / kind / version
    if not (folder / MANIFEST).exists():
        temporary = models / kind / f".{version}.{uuid.uuid4().hex}"
        temporary.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        manifest = {"kind": kind, "version": version, "files": digests, "facts": dict(facts)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        temporary.rename(folder)
    write_atomically(models / kind / POINTER, version.encode())
    return Artifact(kind, version, folder, dict(facts))


def is_published(models: Path, kind: str) -> bool:
    """Whether there is a current version of the kind."""
    return (models / kind / POINTER).exists()


def current(models: Path, kind: str) -> Artifact:
    """The current version. Raises ArtifactError if there is none, or if it is incomplete or damaged."""
    pointer = models / kind / POINTER
    if not is_published(models, kind):
        raise ArtifactError(f"no {kind} model is published in {models}: run `reaseq demo` or `reaseq train` first")
    return load_version(models, kind, pointer.read_text().strip())


def load_version(models: Path, kind: str, version: str) -> Artifact:
    """A given version. Raises ArtifactError if it is missing, incomplete or damaged."""
    folder = models / kind / version
    if not (folder / MANIFEST).exists():
        raise ArtifactError(f"{folder} has no {MANIFEST}: it was never published completely")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        changed = [
            name for name, digest in manifest["files"].items() if sha256((folder / name).read_bytes()).hexdigest() != digest
        ]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} cannot be read: {error}") from error
    if changed:
        raise ArtifactError(f"{folder / changed[0]} does not match the manifest: the file was changed or truncated")
    return Artifact(kind, version, folder, manifest["facts"])


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of the old content or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(content)
    temporary.replace(path)
