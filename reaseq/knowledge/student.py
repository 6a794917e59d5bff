"""The student: small heads on an item's text vector, distilled from the answers of a language model, and calibrated.

A hidden layer, then one logit a value: a softmax over the values of a group that takes exactly one, a sigmoid each where
several may hold. Calibration is Platt scaling (Platt 1999), one scale and one offset a group, fitted on items set aside; so
a claim's confidence is the share of such claims that the teacher would make too.
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
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from reaseq.artifacts import Artifact, publish
from reaseq.knowledge.agents.prompts import DRAFTING
from reaseq.knowledge.guard import admit
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from reaseq.knowledge.vocabulary import Group, Vocabulary
from reaseq.optimizer import Optimizer
from reaseq.records import Claim, ProductKnowledge

KIND = "student"
CLAIM_FROM = 0.4  # half of the F1 that it reaches, where F1 is best for calibrated probabilities (Lipton et al. 2014)
WEIGHTS, SIZES = "model.safetensors", "config.json"


@dataclass(frozen=True)
class StudentConfig:
    """Sizes of the model."""

    vector_dim: int
    values: int
    width: int = 512
    dropout: float = 0.3


@dataclass(frozen=True)
class StudentTrainingConfig:
    """How long and how fast to train, and what share of the examples is set aside for calibration."""

    epochs: int = 60
    batch_items: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    calibration_share: float = 0.15
    seed: int = 0


class StudentModel(nn.Module):
    """Text vectors (N, D) to logits (N, V), V the values of the vocabulary in its order; scaled and shifted by group."""

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
        self.register_buffer("taught", torch.ones(config.values, dtype=torch.bool))  # values whose group the teacher spoke of

    def forward(self, vectors: Tensor) -> Tensor:
        """Calibrated logits (N, V)."""
        # A unit vector's entries are of size 1/√D: brought to size 1, as layers expect them.
        x = vectors * self.config.vector_dim**0.5
        hidden = self.dropout(F.gelu(self.hidden(x)))
        logits = self.out(torch.cat([hidden, self.dropout(x)], dim=-1))
        return logits * self.scale + self.offset  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Slice:
    """A group's columns among the values of the vocabulary."""

    group: Group
    start: int
    end: int

    @property
    def single(self) -> bool:
        """Whether exactly one value holds."""
        return self.group.least == self.group.most == 1


def build_slices(vocabulary: Vocabulary) -> list[Slice]:
    """The columns of each group."""
    found, start = [], 0
    for group in vocabulary.groups:
        found.append(Slice(group, start, start + len(group.values)))
        start += len(group.values)
    return found


def agent_columns(slices: Sequence[Slice], agent: str) -> Tensor:
    """The columns of the values that an agent answers for."""
    return torch.cat([torch.arange(piece.start, piece.end) for piece in slices if piece.group.agent == agent])


def build_targets(answers: Sequence[ProductKnowledge], vocabulary: Vocabulary) -> Tensor:
    """What the teacher claimed (N, V), 0 or 1."""
    targets = torch.zeros(len(answers), vocabulary.size - 1)
    for row, knowledge in enumerate(answers):
        ids, _ = vocabulary.claim_ids(knowledge)
        targets[row, torch.from_numpy(ids.astype(np.int64)) - 1] = 1.0
    return targets


def train(
    vectors: NDArray[np.float32],
    answers: Sequence[ProductKnowledge],
    vocabulary: Vocabulary,
    plan: StudentTrainingConfig,
    progress: Callable[[int], None] = lambda epochs: None,
) -> StudentModel:
    """Train on text vectors (N, D) and the teacher's answers; calibrate on a share of them that is not trained on."""
    torch.manual_seed(plan.seed)
    inputs, targets = torch.from_numpy(vectors), build_targets(answers, vocabulary)
    order = torch.randperm(len(inputs))
    aside = round(plan.calibration_share * len(order))
    held, rows = order[:aside], order[aside:]
    model = StudentModel(StudentConfig(vectors.shape[1], vocabulary.size - 1)).train()
    steps = plan.epochs * -(-len(rows) // plan.batch_items)
    optimizer = Optimizer(model, plan.learning_rate, plan.weight_decay, steps)
    slices = build_slices(vocabulary)
    for piece in slices:
        model.taught[piece.start : piece.end] = targets[:, piece.start : piece.end].any()
    for _ in range(plan.epochs):
        for batch in rows[torch.randperm(len(rows))].split(plan.batch_items):  # type: ignore[no-untyped-call]
            optimizer.step(_loss(model(inputs[batch]), targets[batch], slices))
        progress(1)
    model.eval()
    _calibrate(model, inputs[held], targets[held], slices)
    return model


def probabilities(logits: Tensor, slices: Sequence[Slice]) -> Tensor:
    """Probabilities (N, V) that the teacher claims each value."""
    p = torch.sigmoid(logits)
    for piece in slices:
        if piece.single:
            p[:, piece.start : piece.end] = torch.softmax(logits[:, piece.start : piece.end], dim=-1)
    return p


def chosen(p: Tensor, slices: Sequence[Slice]) -> Tensor:
    """Which values are claimed (N, V) bool: the likely ones of each group, within its bounds."""
    claimed = torch.zeros_like(p, dtype=torch.bool)
    for piece in slices:
        part = p[:, piece.start : piece.end]
        top, at = part.topk(piece.group.most, dim=-1)  # (N, most), most likely first
        rank = torch.arange(piece.group.most)
        claimed[:, piece.start : piece.end].scatter_(1, at, (top >= CLAIM_FROM) | (rank < piece.group.least))
    return claimed


def expected_share(p: Tensor, claimed: Tensor, slices: Sequence[Slice], agent: str) -> Tensor:
    """Of the claims that the teacher's agent would make, the share (N,) that the student expects to make as well:

    E[kept] / E[made] = Σ_claimed p / Σ p, over the values of the agent's groups.
    """
    columns = agent_columns(slices, agent)
    kept = (p * claimed)[:, columns].sum(-1)
    return kept / p[:, columns].sum(-1).clamp(min=1e-6)


class Student:
    """A trained student: what it claims of items, and how sure it is, agent by agent."""

    def __init__(self, model: StudentModel, vocabulary: Vocabulary, version: str) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._slices = build_slices(vocabulary)
        self._values = list(vocabulary)
        self.version = version
        self.identity = f"{KIND}:{version}"

    @staticmethod
    def load(artifact: Artifact, vocabulary: Vocabulary, space_id: str) -> "Student":
        """A published student. Raises ArtifactError where it was trained for another vocabulary or space."""
        artifact.require(vocabulary=vocabulary.version, space_id=space_id)
        model = StudentModel(StudentConfig(**json.loads((artifact.path / SIZES).read_text())))
        model.load_state_dict(load((artifact.path / WEIGHTS).read_bytes()))
        return Student(model.eval(), vocabulary, artifact.version)

    def publish(self, models: Path, facts: Mapping[str, Any]) -> Artifact:
        """Publish the model and point to it."""
        weights = {name: tensor.contiguous() for name, tensor in self._model.state_dict().items()}
        files = {WEIGHTS: save(weights), SIZES: json.dumps(asdict(self._model.config)).encode()}
        return publish(models, KIND, "heads", files, facts)

    def predict(self, vectors: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Probabilities (N, V) and which values are claimed (N, V), from text vectors (N, D).

        Of a group that the teacher never spoke of, nothing is claimed.
        """
        with torch.inference_mode():
            p = probabilities(self._model(torch.from_numpy(vectors)), self._slices)
        return p, chosen(p, self._slices) & self._model.taught

    def expectations(self, p: Tensor, claimed: Tensor) -> Tensor:
        """`expected_share` of every drafting agent (N, A), in the order of DRAFTING; 0 where it has a group to be taught."""
        shares = [expected_share(p, claimed, self._slices, agent) for agent in DRAFTING]
        return torch.stack(shares, dim=1) * torch.tensor([self._knows(agent) for agent in DRAFTING])

    def _knows(self, agent: str) -> bool:
        return all(self._model.taught[piece.start] for piece in self._slices if piece.group.agent == agent)

    def claims(self, item: ReasoningItem, p: Tensor, claimed: Tensor) -> tuple[Claim, ...]:
        """The claims about one item from its row of `predict` (V,), checked like everybody's."""
        made = (
            Claim(group, value, round(float(p[column]), 4), self.identity)
            for column, (group, value) in enumerate(self._values)
            if claimed[column]
        )
        return admit(made, self._vocabulary, item.content, KIND)

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Claims about each item; no free texts."""
        p, claimed = await asyncio.to_thread(self.predict, vectors)
        return [
            ProductKnowledge(vocabulary=self._vocabulary.version, claims=self.claims(item, p[row], claimed[row]))
            for row, item in enumerate(items)
        ]


def _loss(logits: Tensor, targets: Tensor, slices: Sequence[Slice]) -> Tensor:
    loss = logits.new_zeros(())
    for piece in slices:
        part, wanted = logits[:, piece.start : piece.end], targets[:, piece.start : piece.end]
        if piece.single:
            told = wanted.sum(-1) > 0  # an item of which the teacher did not say has nothing to teach here
            loss = loss - (torch.log_softmax(part, dim=-1) * wanted).sum() / told.sum().clamp(min=1)
        else:
            loss = loss + F.binary_cross_entropy_with_logits(part, wanted, reduction="none").sum(-1).mean()
    return loss


def _calibrate(model: StudentModel, vectors: Tensor, targets: Tensor, slices: Sequence[Slice]) -> None:
    """Fits each group's scale and offset (a softmax has no use for an offset) on items that training did not see."""
    with torch.no_grad():
        logits = model(vectors)
    for piece in slices:
        scale, offset = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
        fitted = [scale] if piece.single else [scale, offset]
        optimizer = torch.optim.LBFGS(fitted, max_iter=50, line_search_fn="strong_wolfe")
        part, wanted = logits[:, piece.start : piece.end], targets[:, piece.start : piece.end]
        whole = Slice(piece.group, 0, piece.end - piece.start)

        def closure() -> Tensor:
            optimizer.zero_grad()  # noqa: B023  called within the same turn of the loop
            loss = _loss(part * scale + offset, wanted, [whole])  # noqa: B023
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        model.scale[piece.start : piece.end] = float(scale.detach())
        model.offset[piece.start : piece.end] = float(offset.detach())
