"""The alignment head: maps text vectors so that items which occur together in behavior move closer together.

A residual linear map, trained contrastively on pairs of items of one user (InfoNCE in both directions, in-batch negatives
corrected by their share of the log). Its output is a vector space of its own. Train it on an earlier block of time than the one
it is evaluated on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from reaseq.artifacts import Artifact, open_artifact, publish
from reaseq.errors import SpaceMismatch
from reaseq.optimizer import Optimizer

KIND = "alignment"
WEIGHTS, WEIGHT = "head.safetensors", "turn"  # the file, and its one tensor W


@dataclass(frozen=True)
class AlignmentTrainingConfig:
    """Hyperparameters of training."""

    steps: int = 400
    batch_pairs: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    temperature: float = 0.07
    seed: int = 0


class AlignmentHead(nn.Module):
    """v ↦ unit(v + W v), the identity before training."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """Unit vectors (N, D) of unit vectors (N, D)."""
        return nn.functional.normalize(vectors + self.linear(vectors), dim=-1)

    def publish(self, models: Path, label: str, space_id: str, facts: dict[str, Any]) -> Artifact:
        """Publish the head, which maps vectors of `space_id`."""
        files = {WEIGHTS: save({WEIGHT: self.linear.weight.detach().contiguous()})}
        return publish(models, KIND, label, files, {"space_id": space_id, **facts})


def load_head(folder: Path, space_id: str) -> AlignmentHead:
    """The head published in `folder`.

    Raises ArtifactError if it cannot be loaded, and SpaceMismatch if it was trained on another space than `space_id`.
    """
    artifact = open_artifact(folder)
    with artifact.reading():
        trained_on = artifact.facts["space_id"]
        if trained_on != space_id:
            raise SpaceMismatch(f"{folder} aligns vectors of space {trained_on!r}, but the encoder produces {space_id!r}")
        weight = load_file(folder / WEIGHTS)[WEIGHT]
        head = AlignmentHead(len(weight))
        head.linear.load_state_dict({"weight": weight})
    return head.eval().requires_grad_(False)


def train_head(
    vectors: Tensor,
    pairs: Tensor,
    config: AlignmentTrainingConfig,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> AlignmentHead:
    """A head trained on pairs (M, 2) of rows of vectors (N, D); `progress` is called with 1 and the loss after each step."""
    torch.manual_seed(config.seed)
    head = AlignmentHead(vectors.shape[1])
    optimizer = Optimizer(head, config.learning_rate, config.weight_decay, config.steps)
    shares = torch.bincount(pairs.flatten(), minlength=len(vectors)) / pairs.numel()  # (N,)
    for _ in range(config.steps):
        batch = pairs[torch.randint(len(pairs), (config.batch_pairs,))]
        progress(1, optimizer.step(_loss(head, vectors, batch, shares, config.temperature)))
    return head.eval().requires_grad_(False)


def _loss(head: AlignmentHead, vectors: Tensor, batch: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """InfoNCE of a batch (P, 2): −log softmax of each partner's cosine, each item corrected by its share of the draws."""
    left, right = head(vectors[batch[:, 0]]), head(vectors[batch[:, 1]])  # (P, D) each
    total = left.new_zeros(())
    for queries, keys, column in ((left, right, 1), (right, left, 0)):
        logits = queries @ keys.T / temperature - shares[batch[:, column]].log()  # (P, P)
        same = batch[:, column] == batch[:, column].unsqueeze(-1)
        same.fill_diagonal_(False)  # other occurrences of the partner in the batch are not negatives
        total = total + nn.functional.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(batch)))
    return total / 2  # type: ignore[no-any-return]
