"""The alignment head: text vectors bent so that items which go together in behavior lie together.

A residual linear map, trained contrastively on pairs of items that one user took (InfoNCE, both directions, in-batch negatives
with their share of the log taken out). It makes a space of its own: what it was trained on must be of an earlier block of
time than what it is judged on.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from reaseq.artifacts import MANIFEST, Artifact, publish
from reaseq.errors import ArtifactError, SpaceMismatch
from reaseq.optimizer import Optimizer

KIND = "alignment"
WEIGHTS = "head.safetensors"


@dataclass(frozen=True)
class AlignmentTrainingConfig:
    """How long and how fast to train."""

    steps: int = 400
    batch_pairs: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    temperature: float = 0.07
    seed: int = 0


class AlignmentHead(nn.Module):
    """v ↦ unit(v + W v): the identity before training."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.turn = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.turn.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """Unit vectors (N, D) of unit vectors (N, D)."""
        return nn.functional.normalize(vectors + self.turn(vectors), dim=-1)

    def publish(self, models: Path, label: str, space_id: str, facts: dict[str, Any]) -> Artifact:
        """Publish the head, which reads vectors of `space_id`."""
        files = {WEIGHTS: save({"turn": self.turn.weight.detach().contiguous()})}
        return publish(models, KIND, label, files, {"space_id": space_id, **facts})


def load_head(folder: Path, space_id: str) -> AlignmentHead:
    """The head of a published version's folder. Raises SpaceMismatch where it reads another space."""
    if not (folder / MANIFEST).exists():
        raise ArtifactError(f"{folder} is no published alignment head: it has no {MANIFEST}")
    reads = json.loads((folder / MANIFEST).read_text())["facts"]["space_id"]
    if reads != space_id:
        raise SpaceMismatch(f"{folder} aligns vectors of space {reads!r}, the encoder makes {space_id!r}")
    weight = load_file(folder / WEIGHTS)["turn"]
    head = AlignmentHead(len(weight))
    head.turn.weight.data = weight
    return head.eval().requires_grad_(False)


def train_head(
    vectors: Tensor,
    pairs: Tensor,
    plan: AlignmentTrainingConfig,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> AlignmentHead:
    """A head trained on pairs (M, 2) of rows of vectors (N, D)."""
    torch.manual_seed(plan.seed)
    head = AlignmentHead(vectors.shape[1])
    optimizer = Optimizer(head, plan.learning_rate, plan.weight_decay, plan.steps)
    shares = torch.bincount(pairs.flatten(), minlength=len(vectors)) / pairs.numel()  # (N,)
    for _ in range(plan.steps):
        batch = pairs[torch.randint(len(pairs), (plan.batch_pairs,))]
        progress(1, optimizer.step(_loss(head, vectors, batch, shares, plan.temperature)))
    return head.eval().requires_grad_(False)


def _loss(head: AlignmentHead, vectors: Tensor, batch: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """InfoNCE of a batch (P, 2): −log softmax of each partner's cosine, corrected by how often it is drawn as a negative."""
    left, right = head(vectors[batch[:, 0]]), head(vectors[batch[:, 1]])  # (P, D) each
    total = left.new_zeros(())
    for asked, told, column in ((left, right, 1), (right, left, 0)):
        logits = asked @ told.T / temperature - shares[batch[:, column]].log()  # (P, P)
        same = batch[:, column] == batch[:, column].unsqueeze(-1)
        same.fill_diagonal_(False)  # the partner itself stands elsewhere in the batch too: it is no negative
        total = total + nn.functional.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(batch)))
    return total / 2  # type: ignore[no-any-return]
