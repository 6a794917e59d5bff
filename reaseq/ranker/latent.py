"""What a behavior model says of each candidate, from the state that it left of a user in the feature store.

Latent reasoning has read the user's history already; its hidden state h costs one product with the item tokens E here:

    score(item) = ½ · ( h·E_item − mean over items of h·E )

half of how much more likely the item is, in log, than items are on (geometric) average. Prior popularity is left out: the
ranker sees it fresh. Twice: with the ids that training knew, and by what items are alone, which treats new items like others.
"""

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
MODELS_LIMIT = 4  # held at once


class LatentScores:
    """One behavior model as a source of scores; its item tokens follow the item table."""

    def __init__(self, model: BehaviorModel, ids: TrainedIds) -> None:
        assert isinstance(model.tokens, ItemTokens)  # noqa: S101  see `load`
        self._tokens = model.tokens.eval()
        self._scale = float(model.scale.detach())
        self._items = DerivedTensors(self._written, ids)

    @staticmethod
    def load(artifact: Artifact) -> "LatentScores | None":
        """A published behavior model; None where it writes semantic IDs, whose scores are not one product."""
        config = msgspec.convert(load_sizes(artifact), BehaviorConfig)
        if config.codes:
            return None
        return LatentScores(load_weights(artifact, BehaviorModel(config)), load_trained_ids(artifact))

    def score(self, latents: Tensor, candidates: Tensor, table: Snapshot) -> Tensor:
        """Scores (B, C, SCORES) of candidates' rows (B, C) for users' states (B, w)."""
        with torch.inference_mode():
            items = self._items.get(table)
        tokens, biases = items.tensors  # (S, SCORES · w), (S, SCORES)
        mean, level = (of / max(1, len(tokens) - 1) for of in items.sums)  # (SCORES · w,), (SCORES,)
        slots = table.slots[candidates]  # (B, C)
        users = (latents * self._scale).unsqueeze(-1)  # (B, w, 1)
        level = (mean.view(SCORES, -1) @ users).squeeze(-1) + level  # (B, SCORES)
        batch, count = candidates.shape
        written = F.embedding(slots, tokens).view(batch, count * SCORES, -1)
        bias = F.embedding(slots, biases).view(batch, count * SCORES, 1)
        said = torch.baddbmm(bias, written, users).view(batch, count, SCORES)
        return (said - level.unsqueeze(1)) / 2

    def _written(self, contents: Contents, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, SCORES · w) and biases (n, SCORES) of items as the model writes them."""
        meaning = self._tokens.content_embedding(contents)  # (n, w)
        known = meaning + self._tokens.ids(numbers)
        bias = self._tokens.bias(numbers)  # (n, 1)
        return torch.cat([known, meaning], dim=1), torch.cat([bias, torch.zeros_like(bias)], dim=1)


class LatentModels:
    """The behavior models whose states the feature store holds: usually one, two while a new one takes over."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._held: dict[str, LatentScores | None] = {}
        self._wanted: set[str] = set()

    def load(self, version: str) -> None:
        """ScorerFactory a version ready; one that is not published here, or gives no scores, is remembered as such."""
        self._wanted.discard(version)
        if version not in self._held:
            while len(self._held) >= MODELS_LIMIT:
                self._held.pop(next(iter(self._held)))
            try:
                self._held[version] = LatentScores.load(load_version(self._models_dir, BEHAVIOR, version))
            except ArtifactError:
                self._held[version] = None

    def load_wanted(self) -> None:
        """Load what `scores` was asked for and did not have."""
        for version in list(self._wanted):
            self.load(version)

    def scores(self, inferred: list[Inferred], candidates: Tensor, table: Snapshot) -> tuple[Tensor, list[bool]]:
        """Scores (B, C, SCORES) of rows (B, C), and whose state could be read; zeros where there is none that can.

        Never loads: a version that is not at hand is wanted from now on.
        """
        read = [False] * len(inferred)
        found = None
        for version in {of.model for of in inferred if of.latent}:
            if version not in self._held:
                self._wanted.add(version)
            elif model := self._held[version]:
                users = [place for place, of in enumerate(inferred) if of.latent and of.model == version]
                states = float16.unpack_rows([inferred[user].latent for user in users])
                of_users = torch.from_numpy(states).to(candidates.device)
                if len(users) == len(inferred):
                    return model.score(of_users, candidates, table), [True] * len(users)
                found = torch.zeros(*candidates.shape, SCORES, device=candidates.device) if found is None else found
                found[users] = model.score(of_users, candidates[users], table)
                for user in users:
                    read[user] = True
        return torch.zeros(*candidates.shape, SCORES, device=candidates.device) if found is None else found, read
