"""Scores candidates by a user's latent state, which a behavior model wrote to the feature store.

The latent state is the hidden state h after the user's history, so a score takes one product with the item's token E:

    score(item) = ½ · ( h·E_item − mean over items of h·E )

This is half the log of how much more likely the item is than items are on (geometric) average. The popularity prior is left
out, because the ranker reads fresh counts. Each candidate gets two scores: one with its trained id, and one from its content
alone, which treats new items like all others.
"""

import threading
from pathlib import Path

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from reaseq import float16
from reaseq.artifacts import Artifact, load_version
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig, BehaviorModel, ItemTokens
from reaseq.errors import ArtifactError
from reaseq.model_artifacts import load_sizes, load_trained_ids, load_weights
from reaseq.records import Inferred
from reaseq.representation.contents import Contents
from reaseq.representation.derived import DerivedTensors
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

SCORES = 2  # with trained ids, and without
MODELS_LIMIT = 4  # loaded at once


class LatentScores:
    """Scores candidates with one behavior model; its item tokens are kept up to date with the item table."""

    def __init__(self, model: BehaviorModel, ids: TrainedIds) -> None:
        assert isinstance(model.tokens, ItemTokens)  # noqa: S101  see `load`
        self._tokens = model.tokens.eval()
        self._scale = float(model.scale.detach())
        self._items = DerivedTensors(self._derive, ids)

    @staticmethod
    def load(artifact: Artifact) -> "LatentScores | None":
        """A published behavior model; None if its tokens are semantic IDs, whose scores are not one product.

        Raises ArtifactError if the weights do not fit.
        """
        config = msgspec.convert(load_sizes(artifact), BehaviorConfig)
        if config.codes:
            return None
        return LatentScores(load_weights(artifact, BehaviorModel(config)), load_trained_ids(artifact))

    def score(self, latents: Tensor, candidates: Tensor, table: Snapshot) -> Tensor:
        """Scores (B, C, SCORES) of candidates' rows (B, C) for users' latent states (B, w)."""
        with torch.inference_mode():
            items = self._items.get(table)
        tokens, biases = items.tensors  # (S, SCORES · w), (S, SCORES)
        mean_token, mean_bias = (total / max(1, len(tokens) - 1) for total in items.sums)  # (SCORES · w,), (SCORES,)
        slots = table.slots[candidates]  # (B, C)
        users = (latents * self._scale).unsqueeze(-1)  # (B, w, 1)
        mean = (mean_token.view(SCORES, -1) @ users).squeeze(-1) + mean_bias  # (B, SCORES)
        batch, count = candidates.shape
        token = F.embedding(slots, tokens).view(batch, count * SCORES, -1)
        bias = F.embedding(slots, biases).view(batch, count * SCORES, 1)
        logits = torch.baddbmm(bias, token, users).view(batch, count, SCORES)
        return (logits - mean.unsqueeze(1)) / 2

    def _derive(self, contents: Contents, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, SCORES · w) and biases (n, SCORES) of items."""
        content_embeddings = self._tokens.content_embedding(contents)  # (n, w)
        with_ids = content_embeddings + self._tokens.ids(numbers)
        bias = self._tokens.bias(numbers)  # (n, 1)
        return torch.cat([with_ids, content_embeddings], dim=1), torch.cat([bias, torch.zeros_like(bias)], dim=1)


class LatentModels:
    """The behavior models whose latent states the feature store holds: usually one, two while a new one is rolled out.

    Safe to use from several threads: one loads models while others score.
    """

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._lock = threading.Lock()  # guards both collections, never held while a model loads or scores
        self._models: dict[str, LatentScores | None] = {}
        self._wanted: set[str] = set()

    def load(self, version: str) -> None:
        """Load a version. One that is not published here, does not fit, or gives no scores is remembered as such."""
        with self._lock:
            self._wanted.discard(version)
            if version in self._models:
                return
        try:
            model = LatentScores.load(load_version(self._models_dir, BEHAVIOR, version))
        except ArtifactError:
            model = None
        with self._lock:
            while len(self._models) >= MODELS_LIMIT and version not in self._models:
                self._models.pop(next(iter(self._models)))
            self._models[version] = model

    def load_wanted(self) -> None:
        """Load the versions that `scores` needed and did not have."""
        with self._lock:
            wanted = list(self._wanted)
        for version in wanted:
            self.load(version)

    def scores(self, inferred: list[Inferred], candidates: Tensor, table: Snapshot) -> tuple[Tensor, list[bool]]:
        """Scores (B, C, SCORES) of rows (B, C), and which users' states could be read; the scores of the others are zero.

        Never loads a model: `load_wanted` does that for missing versions.
        """
        read = [False] * len(inferred)
        scores = None
        for version in {behaviors.model for behaviors in inferred if behaviors.latent}:
            if not (model := self._find(version)):
                continue
            users = [user for user, behaviors in enumerate(inferred) if behaviors.latent and behaviors.model == version]
            states = float16.unpack_rows([inferred[user].latent for user in users])
            latents = torch.from_numpy(states).to(candidates.device)  # (users, w)
            if len(users) == len(inferred):
                return model.score(latents, candidates, table), [True] * len(users)
            scores = torch.zeros(*candidates.shape, SCORES, device=candidates.device) if scores is None else scores
            scores[users] = model.score(latents, candidates[users], table)
            for user in users:
                read[user] = True
        return torch.zeros(*candidates.shape, SCORES, device=candidates.device) if scores is None else scores, read

    def _find(self, version: str) -> LatentScores | None:
        """The model of a version; None if it gives no scores or is not loaded. A version not loaded becomes wanted."""
        with self._lock:
            if version not in self._models:
                self._wanted.add(version)
            return self._models.get(version)
