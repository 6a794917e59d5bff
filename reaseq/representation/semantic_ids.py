"""Semantic IDs: an item's vector written as a few digits, coarse to fine, by residual k-means.

Digit l is the nearest of K centroids to what the digits before it left over (residual quantisation). New items are written
with the codebook as it stands, so an ID is a pure function of vector, item id and codebook: no state, the same on every
worker. Items whose digits coincide are told apart by one more digit, a hash of their id.
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
TIE_CODES = 256  # codes of the digit that tells items with equal digits apart
REFIT_ERROR_RATIO = 1.2  # so much worse written than what the codebook was fitted to: a refit is due
REFIT_COLLISION_RATIO = 1.5
LEAST_COLLISIONS = 0.02  # a share of the items: below it, twice as many are still few
UNSEEN_SHARE = 0.1
ITERATIONS = 25


@dataclass(frozen=True)
class LevelUse:
    """How evenly one digit uses its codes. `perplexity` is the number of codes that would be used evenly."""

    dead_codes: int
    perplexity: float
    gini: float


@dataclass(frozen=True)
class Quality:
    """How well items are written. `error` is the mean squared distance between a vector and what its digits say."""

    items: int
    ids: int
    collision_free_share: float  # of the items
    largest_group: int
    error: float
    levels: tuple[LevelUse, ...]


@dataclass(frozen=True)
class Fitted:
    """What a codebook was like when it was fitted: how it wrote its items, and how it writes items it did not see."""

    quality: Quality
    unseen_error: float
    until_ms: int  # when the newest of its items was listed


@dataclass(frozen=True)
class Drift:
    """The catalog now against what the codebook was fitted to. A ratio of 1 is no drift."""

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
        """Digits (N, L) of vectors (N, D). Raises SpaceMismatch where they are of another space."""
        if space_id != self.space_id:
            raise SpaceMismatch(f"vectors of space {space_id!r} for a codebook of space {self.space_id!r}")
        rest = vectors.astype(np.float32)
        digits = np.zeros((len(vectors), len(self.centroids)), np.int64)
        for level, centroids in enumerate(self.centroids):
            # argmin |x − c|² = argmin |c|² − 2 x·c
            digits[:, level] = ((centroids**2).sum(-1) - 2 * rest @ centroids.T).argmin(-1)
            rest = rest - centroids[digits[:, level]]
        return digits

    def decode(self, digits: NDArray[np.int64]) -> NDArray[np.float32]:
        """What digits (N, L) say of a vector (N, D)."""
        said: NDArray[np.float32] = sum(
            (centroids[digits[:, level]] for level, centroids in enumerate(self.centroids)),
            np.zeros((len(digits), self.centroids.shape[2]), np.float32),
        )
        return said

    def quality(self, vectors: NDArray[np.float32], space_id: str) -> Quality:
        """How these vectors (N, D) are written."""
        digits = self.encode(vectors, space_id)
        _, counts = np.unique(digits, axis=0, return_counts=True)
        error = self._error(vectors, digits)
        levels = [_use(np.bincount(digits[:, level], minlength=size)) for level, size in enumerate(self.sizes)]
        alone = float((counts == 1).sum() / max(1, len(vectors)))
        return Quality(len(vectors), len(counts), alone, int(counts.max(initial=0)), error, tuple(levels))

    def error(self, vectors: NDArray[np.float32], space_id: str) -> float:
        """Mean squared distance between vectors (N, D) and what their digits say; 0 of none."""
        return self._error(vectors, self.encode(vectors, space_id))

    def _error(self, vectors: NDArray[np.float32], digits: NDArray[np.int64]) -> float:
        return float(((vectors - self.decode(digits)) ** 2).sum(-1).mean()) if len(vectors) else 0.0

    def publish(self, models: Path, label: str, fitted: Fitted) -> Artifact:
        """Publish the codebook with what it was like when it was fitted."""
        files = {CENTROIDS: save({"centroids": self.centroids}), REPORT: json.dumps(asdict(fitted), indent=1).encode()}
        return publish(models, KIND, label, files, {"space_id": self.space_id, "fitted": asdict(fitted)})

    @staticmethod
    def load(artifact: Artifact) -> "Codebook":
        """A published codebook."""
        return Codebook(load_file(artifact.path / CENTROIDS)["centroids"], artifact.facts["space_id"], artifact.version)


def fit(vectors: NDArray[np.float32], space_id: str, levels: int, codes: int, seed: int = 0) -> Codebook:
    """A codebook of `levels` digits with `codes` codes each, fitted to vectors (N, D); N must be at least `codes`."""
    import faiss  # its libraries take a moment, and only fitting needs it

    rest = np.ascontiguousarray(vectors, np.float32)
    centroids = []
    for level in range(levels):
        means = faiss.Kmeans(rest.shape[1], codes, niter=ITERATIONS, seed=seed + level, min_points_per_centroid=1)
        means.train(rest)
        centroids.append(np.array(means.centroids))
        nearest = means.index.search(rest, 1)[1][:, 0]
        rest = rest - centroids[-1][nearest]
    return Codebook(np.stack(centroids), space_id)


def examine(codebook: Codebook, vectors: NDArray[np.float32], listed_ms: NDArray[np.int64], seed: int = 0) -> Fitted:
    """What a codebook is like that was fitted to vectors (N, D) of items listed then (N,).

    Its own items are written better than any that come later; so what to expect of those is measured with a codebook
    that was fitted to nine tenths of the items, on the rest.
    """
    aside = np.random.default_rng(seed).random(len(vectors)) < UNSEEN_SHARE
    levels, codes = len(codebook.centroids), codebook.sizes[0]
    without = fit(vectors[~aside], codebook.space_id, levels, min(codes, int((~aside).sum())), seed)
    unseen_error = without.error(vectors[aside], codebook.space_id)
    return Fitted(codebook.quality(vectors, codebook.space_id), unseen_error, int(listed_ms.max()))


def load_fitted(artifact: Artifact) -> Fitted:
    """What a published codebook was like when it was fitted."""
    return msgspec.convert(artifact.facts["fitted"], Fitted)


def semantic_id(item_id: str, digits: Sequence[int]) -> tuple[int, ...]:
    """An item's whole ID: its digits, and the one that tells it from others with the same."""
    return (*map(int, digits), int.from_bytes(blake2b(item_id.encode(), digest_size=2).digest(), "big") % TIE_CODES)


def written(whole: Sequence[int]) -> str:
    """A whole ID as people read it."""
    return "-".join(map(str, whole))


def drift(
    fitted: Fitted, codebook: Codebook, vectors: NDArray[np.float32], listed_ms: NDArray[np.int64], space_id: str
) -> Drift:
    """Whether items listed since are written so much worse, or all collide so much more, that a refit is due."""
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
