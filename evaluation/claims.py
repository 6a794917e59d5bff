"""How good cheap knowledge is: claims of a student, the zero-shot reasoner and a copied neighbor, held against a teacher's.

Two kinds of items are held out: some at random, and every item of some product types, so that nothing of their kind was
seen. The teacher's claims are the yardstick, so "right" means "as the language model would say", not "true".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.knowledge.agents.prompts import DRAFTING
from reaseq.knowledge.content import Content
from reaseq.knowledge.student import Student, agent_columns, build_slices
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import ProductKnowledge

HELD_OUT_SHARE = 0.1  # of the items at random, and of the product types
CALIBRATION_BINS = 10

Answer = tuple[Content, ProductKnowledge]


@dataclass(frozen=True)
class Split:
    """Places of the answers: to train on, and held out in two ways."""

    train: list[int]
    random_items: list[int]
    unseen_types: list[int]

    @property
    def held_out(self) -> dict[str, list[int]]:
        """Both kinds of held-out items, by name."""
        return {"random": self.random_items, "unseen types": self.unseen_types}


def split(answers: Sequence[Answer]) -> Split:
    """The same items are held out whenever the same answers are split, in whatever order they come."""
    parts = Split([], [], [])
    for place, (content, knowledge) in enumerate(answers):
        if _draw("type", _kind(knowledge)) < HELD_OUT_SHARE:
            parts.unseen_types.append(place)
        elif _draw("item", content.hash) < HELD_OUT_SHARE:
            parts.random_items.append(place)
        else:
            parts.train.append(place)
    return parts


@dataclass(frozen=True)
class Claimed:
    """What one reasoner claims of N items: confidences (N, V), and which values it claims (N, V) bool."""

    confidences: Tensor
    claimed: Tensor


@dataclass(frozen=True)
class GroupScore:
    """Claims of one group against the teacher's. The calibration error is over the claims made (10 bins of confidence)."""

    group: str
    precision: float
    recall: float
    calibration_error: float


def build_claimed(answers: Sequence[ProductKnowledge | None], vocabulary: Vocabulary) -> Claimed:
    """The claims of a reasoner as tensors."""
    confidences = torch.zeros(len(answers), vocabulary.size - 1)
    for row, answer in enumerate(answers):
        ids, sure = vocabulary.claim_ids(answer)
        confidences[row, torch.from_numpy(ids.astype(np.int64)) - 1] = torch.from_numpy(sure.astype(np.float32))
    return Claimed(confidences, confidences > 0)


def nearest_copy(
    train: NDArray[np.float32], answers: Sequence[ProductKnowledge], asked: NDArray[np.float32]
) -> Sequence[ProductKnowledge]:
    """The answer of each asked item's nearest neighbor by text vector: train (N, D), asked (M, D)."""
    return [answers[int(place)] for place in (asked @ train.T).argmax(axis=1)]


def score(claims: Claimed, truth: Tensor, vocabulary: Vocabulary) -> list[GroupScore]:
    """A score for each group that the teacher speaks of, then one over all of them; truth (N, V) is what it claims."""
    columns = {piece.group.name: torch.arange(piece.start, piece.end) for piece in build_slices(vocabulary)}
    spoken = {name: of_group for name, of_group in columns.items() if truth[:, of_group].any()}
    spoken["all"] = torch.cat(list(spoken.values()))
    return [_score(name, claims, truth, of_group) for name, of_group in spoken.items()]


@dataclass(frozen=True)
class CascadePoint:
    """What a threshold of the cascade leads to, on items that the student never saw. Claims are held against the teacher's."""

    threshold: float
    items_sent_share: float
    agent_calls_share: float  # of the drafting agents' calls, all of which are made at threshold 1
    precision: float
    recall: float


def cascade_curve(student: Student, vectors: NDArray[np.float32], truth: Tensor, vocabulary: Vocabulary) -> list[CascadePoint]:
    """Thresholds from "never ask" to "always ask", for text vectors (N, D) and the teacher's claims (N, V)."""
    p, claimed = student.predict(vectors)
    sure = student.expectations(p, claimed)  # (N, A)
    columns = [agent_columns(build_slices(vocabulary), agent) for agent in DRAFTING]
    thresholds = [0.0, *torch.quantile(sure.flatten(), torch.linspace(0.02, 0.98, 49)).tolist(), 1.0 + 1e-6]
    points = []
    for threshold in thresholds:
        asks = sure < threshold  # (N, A)
        merged = claimed.clone()
        for agent, of_agent in enumerate(columns):
            rows = asks[:, agent].nonzero()
            merged[rows, of_agent] = truth[rows, of_agent].bool()
        hits = float((merged & truth.bool()).sum())
        points.append(
            CascadePoint(
                min(threshold, 1.0),
                float(asks.any(dim=1).float().mean()),
                float(asks.float().mean()),
                hits / max(float(merged.sum()), 1.0),
                hits / max(float(truth.sum()), 1.0),
            )
        )
    return points


def cheapest(points: Sequence[CascadePoint], least_recall: float) -> CascadePoint:
    """The point that sends the fewest items and still keeps that share of the teacher's claims; "always ask" does."""
    return min((point for point in points if point.recall >= least_recall), key=lambda point: point.items_sent_share)


def _score(name: str, claims: Claimed, truth: Tensor, columns: Tensor) -> GroupScore:
    made, wanted, sure = claims.claimed[:, columns], truth[:, columns].bool(), claims.confidences[:, columns]
    hits = float((made & wanted).sum())
    return GroupScore(
        name,
        hits / max(float(made.sum()), 1.0),
        hits / max(float(wanted.sum()), 1.0),
        _calibration_error(sure[made], wanted[made]),
    )


def _calibration_error(confidences: Tensor, right: Tensor) -> float:
    """Σ_bins share · |mean confidence − share right| (Naeini et al. 2015): confidences (M,), right (M,) bool."""
    bins = (confidences * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    gaps = [
        float((bins == place).float().mean())
        * abs(float(confidences[bins == place].mean() - right[bins == place].float().mean()))
        for place in range(CALIBRATION_BINS)
        if (bins == place).any()
    ]
    return sum(gaps)


def _kind(knowledge: ProductKnowledge) -> str:
    """The product type's last word: "shopping bag" and "jumbo bag" are bags."""
    return knowledge.product_type.split()[-1] if knowledge.product_type else ""


def _draw(salt: str, text: str) -> float:
    return int.from_bytes(blake2b(f"{salt}:{text}".encode(), digest_size=8).digest(), "big") / 2**64
