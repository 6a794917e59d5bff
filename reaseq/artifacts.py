"""Published artifacts: immutable directories and one pointer to the current version of each kind.

<models>/<kind>/<version>/…               written under a temporary name, then renamed; never changed afterwards
<models>/<kind>/<version>/manifest.json   written last: a directory without it is incomplete
<models>/<kind>/current                   names the current version; replaced atomically

This module does not import torch, so that commands which only need to know what is published start at once; models with
weights are in `reaseq.model_artifacts`.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from prometheus_client import Counter

from reaseq.errors import ArtifactError, ReaSeqError

log = structlog.get_logger()

T = TypeVar("T")

MANIFEST = "manifest.json"
POINTER = "current"
REJECTED = Counter("reaseq_models_rejected", "Published models that could not be loaded", ["kind"])


class _Manifest(msgspec.Struct):
    kind: str
    version: str
    files: dict[str, str]  # name → SHA-256
    facts: dict[str, Any]


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

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise ArtifactError in place of whatever goes wrong in the block, which reads the files."""
        try:
            yield
        except ReaSeqError:
            raise
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{self.path} lacks a file that this version of the code reads; train it again: {error}"
            ) from error
        except Exception as error:
            raise ArtifactError(f"{self.path} cannot be loaded by this version of the code: {error!r}") from error


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
    """Whether there is a version of the kind."""
    return (models / kind / POINTER).exists() or bool(list_versions(models, kind))


def list_versions(models: Path, kind: str) -> list[str]:
    """The versions with a manifest, the latest published first."""
    manifests = [path for path in (models / kind).glob(f"*/{MANIFEST}") if not path.parent.name.startswith(".")]
    return [path.parent.name for path in sorted(manifests, key=_written_ns, reverse=True)]


def current(models: Path, kind: str) -> Artifact:
    """The current version. Raises ArtifactError if there is none, or if it is incomplete or damaged."""
    if not is_published(models, kind):
        raise ArtifactError(f"no {kind} model is published in {models}: run `reaseq demo` or `reaseq train` first")
    try:
        version = _read(models / kind, POINTER).decode().strip()
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{models / kind / POINTER}, which names the current version, cannot be read: {error}") from error
    return load_version(models, kind, version)


def load_version(models: Path, kind: str, version: str) -> Artifact:
    """A given version. Raises ArtifactError if it is missing, incomplete or damaged."""
    folder = models / kind / version
    if folder.parent != models / kind or version == "..":
        raise ArtifactError(f"{version!r} is not the name of a version in {models / kind}")
    artifact = open_artifact(folder)
    if (artifact.kind, artifact.version) != (kind, version):
        raise ArtifactError(f"{folder} holds the {artifact.kind} model {artifact.version}: it was copied or renamed")
    return artifact


def open_artifact(folder: Path) -> Artifact:
    """The version in `folder`, with its files verified. Raises ArtifactError if it is missing, incomplete or damaged."""
    try:
        manifest = msgspec.convert(json.loads(_read(folder, MANIFEST)), _Manifest)
        changed = [name for name, digest in manifest.files.items() if sha256(_read(folder, name)).hexdigest() != digest]
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise ArtifactError(f"{folder} has no {missing}: it was never published completely") from error
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{folder} cannot be read: {error}") from error
    if changed:
        raise ArtifactError(f"{folder / changed[0]} does not match the manifest: the file was changed or truncated")
    return Artifact(manifest.kind, manifest.version, folder, manifest.facts)


def load_newest(models: Path, kind: str, load: Callable[[Artifact], T]) -> T:
    """Load the current version or, if that cannot be loaded, the latest published one that can be; reports which, and why.

    Raises ArtifactError, which names the fault of the current version, if none can be loaded.
    """
    try:
        return load(current(models, kind))
    except ArtifactError as error:
        fault = error
    for version in list_versions(models, kind):
        try:
            loaded = load(load_version(models, kind, version))
        except ArtifactError:
            continue
        report_rejected(kind, str(fault), loaded_instead=version)
        return loaded
    raise fault


def report_rejected(kind: str, reason: str, **context: str) -> None:
    """Count and log a published model that could not be loaded."""
    REJECTED.labels(kind).inc()
    log.error("model_rejected", kind=kind, reason=reason, **context)


def _read(folder: Path, name: str) -> bytes:
    """The content of a regular file in the folder; reading a pipe or a device might never end."""
    path = folder / name
    if path.parent != folder or (path.exists() and not path.is_file()):
        raise ValueError(f"{name!r} is not a file of {folder}")
    return path.read_bytes()


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # removed since it was listed
        return 0


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file so that readers see all of the old content or all of the new. A new file has `mode`, less the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # otherwise a power failure after the renaming may leave an empty file
    temporary.replace(path)
