"""The student: small heads on an item's text vector, distilled from a language model's answers and calibrated.

A hidden layer, then one logit per value: a softmax over the values of a group that takes exactly one, a sigmoid per value in
other groups. Calibration is Platt scaling (Platt 1999) with one scale and one offset per group, fitted on held-out items, so
a claim's confidence estimates the probability that the teacher makes the same claim.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from reaseq.artifacts import Artifact, publish
from reaseq.knowledge.agents.prompts import DRAFTING
from reaseq.knowledge.guard import admit
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from reaseq.knowledge.vocabulary import Group, Vocabulary
from reaseq.model_artifacts import SIZES, WEIGHTS, load_sizes, load_weights
from reaseq.optimizer import Optimizer
from reaseq.records import Claim, ProductKnowledge

KIND = "student"
CLAIM_FROM = 0.4  # the F1-optimal threshold for calibrated probabilities: half of the F1 reached (Lipton et al. 2014)


@dataclass(frozen=True)
class StudentConfig:
    """Sizes of the model."""

    vector_dim: int
    values: int
    width: int = 512
    dropout: float = 0.3


@dataclass(frozen=True)
class StudentTrainingConfig:
    """Length and rate of training, and the share of examples held out for calibration."""

    epochs: int = 60
    batch_items: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    calibration_share: float = 0.15
    seed: int = 0


class StudentModel(nn.Module):
    """Maps text vectors (N, D) to calibrated logits (N, V), one per value, in the order of the vocabulary."""

    scale: Tensor
    offset: Tensor
    taught: Tensor

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.hidden = nn.Linear(config.vector_dim, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.width + config.vector_dim, config.values)
        self.register_buffer("scale", torch.ones(config.values))
        self.register_buffer("offset", torch.zeros(config.values))
        self.register_buffer("taught", torch.ones(config.values, dtype=torch.bool))  # values of groups in the teacher's answers

    def forward(self, vectors: Tensor) -> Tensor:
        """Calibrated logits (N, V)."""
        # A unit vector's entries are of size 1/√D; scale them to size 1, as the layers expect.
        x = vectors * self.config.vector_dim**0.5
        hidden = self.dropout(F.gelu(self.hidden(x)))
        logits = self.out(torch.cat([hidden, self.dropout(x)], dim=-1))
        return logits * self.scale + self.offset  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Slice:
    """The columns of a group's values."""

    group: Group
    start: int
    end: int

    @property
    def single(self) -> bool:
        """Whether the group takes exactly one value."""
        return self.group.least == self.group.most == 1


def build_slices(vocabulary: Vocabulary) -> list[Slice]:
    """The slice of each group, in the order of the vocabulary."""
    slices, start = [], 0
    for group in vocabulary.groups:
        slices.append(Slice(group, start, start + len(group.values)))
        start += len(group.values)
    return slices


def agent_columns(slices: Sequence[Slice], agent: str) -> Tensor:
    """The columns of the values in an agent's groups."""
    return torch.cat([torch.arange(piece.start, piece.end) for piece in slices if piece.group.agent == agent])


def build_targets(answers: Sequence[ProductKnowledge], vocabulary: Vocabulary) -> Tensor:
    """The teacher's claims (N, V), 0 or 1."""
    targets = torch.zeros(len(answers), vocabulary.size - 1)
    for row, knowledge in enumerate(answers):
        ids, _ = vocabulary.claim_ids(knowledge)
        targets[row, torch.from_numpy(ids.astype(np.int64)) - 1] = 1.0
    return targets


def train(
    vectors: NDArray[np.float32],
    answers: Sequence[ProductKnowledge],
    vocabulary: Vocabulary,
    config: StudentTrainingConfig,
    progress: Callable[[int], None] = lambda epochs: None,
) -> StudentModel:
    """Train on text vectors (N, D) and the teacher's answers, then calibrate on a held-out share of them."""
    torch.manual_seed(config.seed)
    inputs, targets = torch.from_numpy(vectors), build_targets(answers, vocabulary)
    order = torch.randperm(len(inputs))
    count = round(config.calibration_share * len(order))
    calibration_rows, rows = order[:count], order[count:]
    model = StudentModel(StudentConfig(vectors.shape[1], vocabulary.size - 1)).train()
    steps = config.epochs * -(-len(rows) // config.batch_items)
    optimizer = Optimizer(model, config.learning_rate, config.weight_decay, steps)
    slices = build_slices(vocabulary)
    for piece in slices:
        model.taught[piece.start : piece.end] = targets[:, piece.start : piece.end].any()
    for _ in range(config.epochs):
        for batch in rows[torch.randperm(len(rows))].split(config.batch_items):  # type: ignore[no-untyped-call]
            optimizer.step(_loss(model(inputs[batch]), targets[batch], slices))
        progress(1)
    model.eval()
    _calibrate(model, inputs[calibration_rows], targets[calibration_rows], slices)
    return model


def probabilities(logits: Tensor, slices: Sequence[Slice]) -> Tensor:
    """Probabilities (N, V) that the teacher claims each value."""
    p = torch.sigmoid(logits)
    for piece in slices:
        if piece.single:
            p[:, piece.start : piece.end] = torch.softmax(logits[:, piece.start : piece.end], dim=-1)
    return p


def chosen(p: Tensor, slices: Sequence[Slice]) -> Tensor:
    """The claimed values (N, V) bool: those of each group above CLAIM_FROM, within its `least` and `most`."""
    claimed = torch.zeros_like(p, dtype=torch.bool)
    for piece in slices:
        part = p[:, piece.start : piece.end]
        top, columns = part.topk(piece.group.most, dim=-1)  # (N, most), most likely first
        rank = torch.arange(piece.group.most)
        claimed[:, piece.start : piece.end].scatter_(1, columns, (top >= CLAIM_FROM) | (rank < piece.group.least))
    return claimed


def expected_share(p: Tensor, claimed: Tensor, slices: Sequence[Slice], agent: str) -> Tensor:
    """The expected share (N,) of the claims of a teacher's agent that the student makes too:

    E[kept] / E[made] = Σ_claimed p / Σ p, over the values of the agent's groups.
    """
    columns = agent_columns(slices, agent)
    kept = (p * claimed)[:, columns].sum(-1)
    return kept / p[:, columns].sum(-1).clamp(min=1e-6)


class Student:
    """A trained student: makes claims about items and estimates how well they replace each agent's."""

    def __init__(self, model: StudentModel, vocabulary: Vocabulary, version: str) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._slices = build_slices(vocabulary)
        self._values = list(vocabulary)
        self.version = version
        self.identity = f"{KIND}:{version}"

    @staticmethod
    def load(artifact: Artifact, vocabulary: Vocabulary, space_id: str) -> "Student":
        """Load a published student.

        Raises ArtifactError if it was trained for another vocabulary or space, or if it cannot be loaded.
        """
        artifact.require(vocabulary=vocabulary.version, space_id=space_id)
        with artifact.reading():
            model = load_weights(artifact, StudentModel(load_sizes(artifact, StudentConfig)))
        return Student(model, vocabulary, artifact.version)

    def publish(self, models: Path, facts: Mapping[str, Any]) -> Artifact:
        """Publish the model and make it current."""
        weights = {name: tensor.contiguous() for name, tensor in self._model.state_dict().items()}
        files = {WEIGHTS: save(weights), SIZES: json.dumps(asdict(self._model.config)).encode()}
        return publish(models, KIND, "heads", files, facts)

    def predict(self, vectors: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Probabilities (N, V) and claimed values (N, V) bool, from text vectors (N, D).

        Makes no claims in groups that the teacher's answers lack.
        """
        with torch.inference_mode():
            p = probabilities(self._model(torch.from_numpy(vectors)), self._slices)
        return p, chosen(p, self._slices) & self._model.taught

    def expected_shares(self, p: Tensor, claimed: Tensor) -> Tensor:
        """`expected_share` (N, A) for the agents in DRAFTING; 0 for an agent with a group that was not taught."""
        shares = [expected_share(p, claimed, self._slices, agent) for agent in DRAFTING]
        return torch.stack(shares, dim=1) * torch.tensor([self._is_taught(agent) for agent in DRAFTING])

    def _is_taught(self, agent: str) -> bool:
        return all(self._model.taught[piece.start] for piece in self._slices if piece.group.agent == agent)

    def claims(self, item: ReasoningItem, p: Tensor, claimed: Tensor) -> tuple[Claim, ...]:
        """The checked claims about one item, from its row (V,) of the outputs of `predict`."""
        claims = (
            Claim(group, value, round(float(p[column]), 4), self.identity)
            for column, (group, value) in enumerate(self._values)
            if claimed[column]
        )
        return admit(claims, self._vocabulary, item.content, KIND)

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Claims about each item, without free texts."""
        p, claimed = await asyncio.to_thread(self.predict, vectors)
        return [
            ProductKnowledge(vocabulary=self._vocabulary.version, claims=self.claims(item, p[row], claimed[row]))
            for row, item in enumerate(items)
        ]


def _loss(logits: Tensor, targets: Tensor, slices: Sequence[Slice]) -> Tensor:
    loss = logits.new_zeros(())
    for piece in slices:
        part, labels = logits[:, piece.start : piece.end], targets[:, piece.start : piece.end]
        if piece.single:
            labeled = labels.sum(-1) > 0  # items that the teacher gave no label in this group do not count
            loss = loss - (torch.log_softmax(part, dim=-1) * labels).sum() / labeled.sum().clamp(min=1)
        else:
            loss = loss + F.binary_cross_entropy_with_logits(part, labels, reduction="none").sum(-1).mean()
    return loss


def _calibrate(model: StudentModel, vectors: Tensor, targets: Tensor, slices: Sequence[Slice]) -> None:
    """Fit each group's scale and offset on held-out items. A softmax is invariant to an offset, so it gets none."""
    with torch.no_grad():
        logits = model(vectors)
    for piece in slices:
        scale, offset = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
        fitted = [scale] if piece.single else [scale, offset]
        optimizer = torch.optim.LBFGS(fitted, max_iter=50, line_search_fn="strong_wolfe")
        part, labels = logits[:, piece.start : piece.end], targets[:, piece.start : piece.end]
        whole = Slice(piece.group, 0, piece.end - piece.start)

        def closure() -> Tensor:
            optimizer.zero_grad()  # noqa: B023  called within the same iteration
            loss = _loss(part * scale + offset, labels, [whole])  # noqa: B023
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        model.scale[piece.start : piece.end] = float(scale.detach())
        model.offset[piece.start : piece.end] = float(offset.detach())
