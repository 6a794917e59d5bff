"""Quality of cheap reasoners: claims of a student, the zero-shot reasoner and a copied neighbor, compared with a teacher's.

Items are held out in two ways: some at random, and all items of some product types, which training never sees. The
teacher's claims are the reference, so "correct" means "as the language model would claim", not "true".
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

HELD_OUT_SHARE = 0.1  # of all items, at random, and of the product types
CALIBRATION_BINS = 10
ALL_GROUPS = "all"

Answer = tuple[Content, ProductKnowledge]


@dataclass(frozen=True)
class AnswerSplit:
    """Indices of the answers to train on, and of those held out in two ways."""

    train: list[int]
    random_items: list[int]
    unseen_types: list[int]

    @property
    def held_out(self) -> dict[str, list[int]]:
        """Both kinds of held-out items, by name."""
        return {"random": self.random_items, "unseen types": self.unseen_types}


def split_answers(answers: Sequence[Answer]) -> AnswerSplit:
    """Split answers by content, so that the order of the answers does not change which items are held out."""
    parts = AnswerSplit([], [], [])
    for index, (content, knowledge) in enumerate(answers):
        if _hash_to_share("type", _to_product_kind(knowledge)) < HELD_OUT_SHARE:
            parts.unseen_types.append(index)
        elif _hash_to_share("item", content.hash) < HELD_OUT_SHARE:
            parts.random_items.append(index)
        else:
            parts.train.append(index)
    return parts


@dataclass(frozen=True)
class PredictedClaims:
    """One reasoner's claims about N items: confidences (N, V), and which values it claims (N, V) bool."""

    confidences: Tensor
    claimed: Tensor


@dataclass(frozen=True)
class GroupScore:
    """Claims of one group compared with the teacher's. The calibration error covers the claims made (10 bins of confidence)."""

    group: str
    precision: float
    recall: float
    calibration_error: float


def build_predicted_claims(answers: Sequence[ProductKnowledge | None], vocabulary: Vocabulary) -> PredictedClaims:
    """A reasoner's answers as tensors."""
    confidences = torch.zeros(len(answers), vocabulary.size - 1)
    for row, answer in enumerate(answers):
        ids, values = vocabulary.claim_ids(answer)
        confidences[row, torch.from_numpy(ids.astype(np.int64)) - 1] = torch.from_numpy(values.astype(np.float32))
    return PredictedClaims(confidences, confidences > 0)


def copy_nearest(
    train: NDArray[np.float32], answers: Sequence[ProductKnowledge], queries: NDArray[np.float32]
) -> Sequence[ProductKnowledge]:
    """The answer to each query's nearest neighbor by text vector: train (N, D), queries (M, D)."""
    return [answers[int(index)] for index in (queries @ train.T).argmax(axis=1)]


def score_claims(predicted: PredictedClaims, truth: Tensor, vocabulary: Vocabulary) -> list[GroupScore]:
    """A score for each group in the teacher's claims `truth` (N, V), then one over all groups."""
    columns = {piece.group.name: torch.arange(piece.start, piece.end) for piece in build_slices(vocabulary)}
    present = {name: group_columns for name, group_columns in columns.items() if truth[:, group_columns].any()}
    present[ALL_GROUPS] = torch.cat(list(present.values()))
    return [_score_group(name, predicted, truth, group_columns) for name, group_columns in present.items()]


@dataclass(frozen=True)
class CascadePoint:
    """The cascade at one threshold, on items that the student never saw, compared with the teacher's claims."""

    threshold: float
    items_sent_share: float
    agent_calls_share: float  # of the drafting agents' calls, all of which are made at threshold 1
    precision: float
    recall: float


def trace_cascade(student: Student, vectors: NDArray[np.float32], truth: Tensor, vocabulary: Vocabulary) -> list[CascadePoint]:
    """The cascade at thresholds from "never call" to "always call", for text vectors (N, D) and the teacher's claims (N, V)."""
    p, claimed = student.predict(vectors)
    expected = student.expected_shares(p, claimed)  # (N, A)
    columns = [agent_columns(build_slices(vocabulary), agent) for agent in DRAFTING]
    thresholds = [0.0, *torch.quantile(expected.flatten(), torch.linspace(0.02, 0.98, 49)).tolist(), 1.0 + 1e-6]
    points = []
    for threshold in thresholds:
        called = expected < threshold  # (N, A)
        merged = claimed.clone()
        for agent, agent_values in enumerate(columns):
            rows = called[:, agent].nonzero()
            merged[rows, agent_values] = truth[rows, agent_values].bool()
        hits = float((merged & truth.bool()).sum())
        points.append(
            CascadePoint(
                threshold=min(threshold, 1.0),
                items_sent_share=float(called.any(dim=1).float().mean()),
                agent_calls_share=float(called.float().mean()),
                precision=hits / max(float(merged.sum()), 1.0),
                recall=hits / max(float(truth.sum()), 1.0),
            )
        )
    return points


def find_cheapest(points: Sequence[CascadePoint], recall_min: float) -> CascadePoint:
    """The point that sends the fewest items at a recall of at least `recall_min`. It exists: "always call" has recall 1."""
    return min((point for point in points if point.recall >= recall_min), key=lambda point: point.items_sent_share)


def _score_group(name: str, predicted: PredictedClaims, truth: Tensor, columns: Tensor) -> GroupScore:
    claimed, wanted, confidences = predicted.claimed[:, columns], truth[:, columns].bool(), predicted.confidences[:, columns]
    hits = float((claimed & wanted).sum())
    return GroupScore(
        name,
        hits / max(float(claimed.sum()), 1.0),
        hits / max(float(wanted.sum()), 1.0),
        _calibration_error(confidences[claimed], wanted[claimed]),
    )


def _calibration_error(confidences: Tensor, correct: Tensor) -> float:
    """Σ_bins share · |mean confidence − share correct| (Naeini et al. 2015): confidences (M,), correct (M,) bool."""
    bins = (confidences * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    gaps = [
        float(inside.float().mean()) * abs(float(confidences[inside].mean() - correct[inside].float().mean()))
        for inside in (bins == index for index in range(CALIBRATION_BINS))
        if inside.any()
    ]
    return sum(gaps)


def _to_product_kind(knowledge: ProductKnowledge) -> str:
    """The product type's last word: "shopping bag" and "jumbo bag" are bags."""
    return knowledge.product_type.split()[-1] if knowledge.product_type else ""


def _hash_to_share(salt: str, text: str) -> float:
    """A number in [0, 1) that depends only on the salt and the text."""
    return int.from_bytes(blake2b(f"{salt}:{text}".encode(), digest_size=8).digest(), "big") / 2**64
