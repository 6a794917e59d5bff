"""Semantic IDs: an item's vector encoded as a few digits, coarse to fine, by residual k-means.

Digit l is the nearest of K centroids to the residual of the digits before it (residual quantization). New items are encoded
with the existing codebook, so an ID is a pure function of vector, item id and codebook: stateless, and the same on every
worker. One more digit, a hash of the item's id, distinguishes items whose digits collide.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from reaseq.artifacts import Artifact, publish
from reaseq.errors import SpaceMismatch

KIND = "semantic-ids"
CENTROIDS, REPORT = "centroids.safetensors", "quality.json"
TIE_CODES = 256  # codes of the digit that distinguishes items with equal digits
REFIT_ERROR_RATIO = 1.2  # a refit is due above this ratio of the new items' error to the expected one
REFIT_COLLISION_RATIO = 1.5  # or above this ratio of the collisions to those at the fit
LEAST_COLLISIONS = 0.02  # share of the items below which collisions are too few to compare
UNSEEN_SHARE = 0.1  # of the items, set aside to measure the error on new ones
ITERATIONS = 25


@dataclass(frozen=True)
class LevelUse:
    """How evenly one digit uses its codes. `perplexity` is the number of codes that, used evenly, have the same entropy."""

    dead_codes: int
    perplexity: float
    gini: float


@dataclass(frozen=True)
class Quality:
    """How well a codebook encodes items. `error` is the mean squared distance between a vector and its reconstruction."""

    items: int
    ids: int
    collision_free_share: float  # of the items
    largest_group: int
    error: float
    levels: tuple[LevelUse, ...]


@dataclass(frozen=True)
class Fitted:
    """What was measured when a codebook was fitted: its quality on its own items, and the error to expect on new ones."""

    quality: Quality
    unseen_error: float
    until_ms: int  # listing time of the newest of its items


@dataclass(frozen=True)
class Drift:
    """The current catalog compared with the one the codebook was fitted to. A ratio of 1 is no drift."""

    new_items: int
    error_ratio: float  # of items listed since
    collision_ratio: float  # of all items
    refit_due: bool


@dataclass(frozen=True)
class Codebook:
    """Centroids (L, K, D) for vectors of one space."""

    centroids: NDArray[np.float32]
    space_id: str
    version: str = ""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each digit."""
        return (self.centroids.shape[1],) * len(self.centroids)

    def encode(self, vectors: NDArray[np.float32], space_id: str) -> NDArray[np.int64]:
        """Digits (N, L) of vectors (N, D). Raises SpaceMismatch if `space_id` is not the codebook's."""
        if space_id != self.space_id:
            raise SpaceMismatch(f"the vectors are of space {space_id!r}, but the codebook is of space {self.space_id!r}")
        residual = vectors.astype(np.float32)
        digits = np.zeros((len(vectors), len(self.centroids)), np.int64)
        for level, centroids in enumerate(self.centroids):
            # argmin |x − c|² = argmin |c|² − 2 x·c
            digits[:, level] = ((centroids**2).sum(-1) - 2 * residual @ centroids.T).argmin(-1)
            residual = residual - centroids[digits[:, level]]
        return digits

    def decode(self, digits: NDArray[np.int64]) -> NDArray[np.float32]:
        """Reconstructions (N, D) of digits (N, L)."""
        vectors: NDArray[np.float32] = sum(
            (centroids[digits[:, level]] for level, centroids in enumerate(self.centroids)),
            np.zeros((len(digits), self.centroids.shape[2]), np.float32),
        )
        return vectors

    def quality(self, vectors: NDArray[np.float32], space_id: str) -> Quality:
        """How well these vectors (N, D) are encoded. Raises SpaceMismatch like `encode`."""
        digits = self.encode(vectors, space_id)
        _, counts = np.unique(digits, axis=0, return_counts=True)
        error = self._error(vectors, digits)
        levels = [_use(np.bincount(digits[:, level], minlength=size)) for level, size in enumerate(self.sizes)]
        collision_free = float((counts == 1).sum() / max(1, len(vectors)))
        return Quality(len(vectors), len(counts), collision_free, int(counts.max(initial=0)), error, tuple(levels))

    def error(self, vectors: NDArray[np.float32], space_id: str) -> float:
        """Mean squared distance between vectors (N, D) and their reconstructions; 0 without vectors."""
        return self._error(vectors, self.encode(vectors, space_id))

    def _error(self, vectors: NDArray[np.float32], digits: NDArray[np.int64]) -> float:
        return float(((vectors - self.decode(digits)) ** 2).sum(-1).mean()) if len(vectors) else 0.0

    def publish(self, models: Path, label: str, fitted: Fitted) -> Artifact:
        """Publish the codebook with what was measured when it was fitted."""
        files = {CENTROIDS: save({"centroids": self.centroids}), REPORT: json.dumps(asdict(fitted), indent=1).encode()}
        return publish(models, KIND, label, files, {"space_id": self.space_id, "fitted": asdict(fitted)})

    @staticmethod
    def load(artifact: Artifact) -> "Codebook":
        """A published codebook. Raises ArtifactError if it cannot be loaded."""
        with artifact.reading():
            return Codebook(load_file(artifact.path / CENTROIDS)["centroids"], artifact.facts["space_id"], artifact.version)


def fit(vectors: NDArray[np.float32], space_id: str, levels: int, codes: int, seed: int = 0) -> Codebook:
    """A codebook of `levels` digits with `codes` codes each, fitted to vectors (N, D); N must be at least `codes`."""
    import faiss  # slow to load, and only fitting needs it

    residual = np.ascontiguousarray(vectors, np.float32)
    centroids = []
    for level in range(levels):
        means = faiss.Kmeans(residual.shape[1], codes, niter=ITERATIONS, seed=seed + level, min_points_per_centroid=1)
        means.train(residual)
        centroids.append(np.array(means.centroids))
        nearest = means.index.search(residual, 1)[1][:, 0]
        residual = residual - centroids[-1][nearest]
    return Codebook(np.stack(centroids), space_id)


def examine(codebook: Codebook, vectors: NDArray[np.float32], listed_ms: NDArray[np.int64], seed: int = 0) -> Fitted:
    """Measure a codebook on the vectors (N, D) it was fitted to; `listed_ms` (N,) are their listing times.

    A codebook encodes its own items better than later ones. To measure the error to expect on those, another codebook
    is fitted to nine tenths of the items and encodes the rest.
    """
    unseen = np.random.default_rng(seed).random(len(vectors)) < UNSEEN_SHARE
    levels, codes = len(codebook.centroids), codebook.sizes[0]
    other = fit(vectors[~unseen], codebook.space_id, levels, min(codes, int((~unseen).sum())), seed)
    unseen_error = other.error(vectors[unseen], codebook.space_id)
    return Fitted(codebook.quality(vectors, codebook.space_id), unseen_error, int(listed_ms.max()))


def load_fitted(artifact: Artifact) -> Fitted:
    """What was measured when a published codebook was fitted."""
    return msgspec.convert(artifact.facts["fitted"], Fitted)


def semantic_id(item_id: str, digits: Sequence[int]) -> tuple[int, ...]:
    """An item's full ID: its digits, and the one that distinguishes it from items with the same digits."""
    return (*map(int, digits), int.from_bytes(blake2b(item_id.encode(), digest_size=2).digest(), "big") % TIE_CODES)


def format_semantic_id(full_id: Sequence[int]) -> str:
    """A full ID as text: its digits joined by hyphens."""
    return "-".join(map(str, full_id))


def drift(
    fitted: Fitted, codebook: Codebook, vectors: NDArray[np.float32], listed_ms: NDArray[np.int64], space_id: str
) -> Drift:
    """Compare the catalog with the fit: a refit is due if new items are encoded much worse or collide much more often."""
    new = vectors[listed_ms > fitted.until_ms]
    error_ratio = codebook.error(new, space_id) / max(fitted.unseen_error, 1e-9) if len(new) else 1.0
    collided = 1 - codebook.quality(vectors, space_id).collision_free_share
    collision_ratio = collided / max(1 - fitted.quality.collision_free_share, LEAST_COLLISIONS)
    due = error_ratio > REFIT_ERROR_RATIO or collision_ratio > REFIT_COLLISION_RATIO
    return Drift(len(new), error_ratio, collision_ratio, due)


def _use(counts: NDArray[np.int64]) -> LevelUse:
    shares = counts / max(1, counts.sum())
    used = shares[shares > 0]
    ordered = np.sort(shares)
    size = len(ordered)
    # Gini of sorted shares x: Σ (2i − n − 1) x_i / n, for Σ x = 1
    gini = float(((2 * np.arange(1, size + 1) - size - 1) * ordered).sum() / size)
    return LevelUse(int((counts == 0).sum()), float(np.exp(-(used * np.log(used)).sum())), gini)
