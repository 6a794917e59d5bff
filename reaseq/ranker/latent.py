"""Scores candidates by a user's latent state, which a behavior model wrote to the feature store.

The latent state is the hidden state h after the user's history, so a score takes one product with the item's token E:

    score(item) = ½ · ( h·E_item − mean over items of h·E )

This is half the log of how much more likely the item is than items are on (geometric) average. The popularity prior is left
out, because the ranker reads fresh counts. Each candidate gets two scores: one with its trained id, and one from its content
alone, which treats new items like all others.
"""

import threading
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from reaseq import float16
from reaseq.artifacts import Artifact, list_versions, load_version, report_rejected
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

        Raises ArtifactError if it cannot be loaded.
        """
        config = load_sizes(artifact, BehaviorConfig)
        if config.codes:
            return None
        with artifact.reading():
            return LatentScores(load_weights(artifact, BehaviorModel(config)), load_trained_ids(artifact, config.items))

    def reads(self, latent: bytes) -> bool:
        """Whether a state has this model's width."""
        return len(latent) == self._tokens.ids.embedding_dim * float16.FLOAT16.itemsize

    def score(self, latents: Tensor, candidates: Tensor, table: Snapshot) -> Tensor:
        """Scores (B, C, SCORES) of candidates' rows (B, C) for users' latent states (B, w)."""
        with torch.inference_mode():
            items = self._items.get(table)
        tokens, biases = items.tensors  # (S, SCORES · w), (S, SCORES)
        mean_token, mean_bias = items.means  # (SCORES · w,), (SCORES,)
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

    Keeps the MODELS_LIMIT most recently used ones. Safe to use from several threads: one loads models while others score.
    """

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._lock = threading.Lock()  # guards the collections, never held while a model loads or scores
        self._models: dict[str, LatentScores | None] = {}  # the most recently used last; None: gives no scores, or rejected
        self._published = set(list_versions(models_dir, BEHAVIOR))
        self._wanted: set[str] = set()  # published, but not loaded

    def load(self, version: str) -> None:
        """Load a version. If it is rejected, this is reported once; if it gives no scores, this is remembered."""
        with self._lock:
            if version in self._models:
                return
        try:
            model = LatentScores.load(load_version(self._models_dir, BEHAVIOR, version))
        except ArtifactError as error:
            report_rejected(BEHAVIOR, str(error))
            model = None
        with self._lock:
            self._models[version] = model
            loaded = [name for name, scores in self._models.items() if scores]
            for name in loaded[:-MODELS_LIMIT]:
                del self._models[name]

    def load_wanted(self) -> None:
        """Load the published versions that `scores` needed and did not have."""
        published = set(list_versions(self._models_dir, BEHAVIOR))
        with self._lock:
            self._published = published
            wanted, self._wanted = self._wanted, set()
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
            users = [
                user
                for user, behaviors in enumerate(inferred)
                if behaviors.model == version and behaviors.latent and model.reads(behaviors.latent)
            ]
            if not users:
                continue
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
        """The model of a version; None if it gives no scores or is not loaded. A published version not loaded becomes wanted.

        Other names, which come from the rows of users, are ignored.
        """
        with self._lock:
            if version not in self._models:
                self._wanted |= {version} & self._published
                return None
            model = self._models[version] = self._models.pop(version)
            return model
