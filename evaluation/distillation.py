"""Distillation of a teacher's answers into a student, and a comparison of the student with cheaper reasoners."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.claims import (
    Answer,
    AnswerSplit,
    GroupScore,
    PredictedClaims,
    build_predicted_claims,
    copy_nearest,
    score_claims,
    split_answers,
)
from reaseq.errors import CatalogError
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.student import Student, StudentTrainingConfig, build_targets, train
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.knowledge.zero_shot import ZeroShotReasoner
from reaseq.representation.encoder import Encoder

ANSWERS_MIN = 200  # fewer would leave nothing to hold out


@dataclass(frozen=True)
class Teacher:
    """Accepted answers and their items' text vectors (N, D), split into training and held-out parts."""

    answers: Sequence[Answer]
    vectors: NDArray[np.float32]
    vocabulary: Vocabulary
    encoder: Encoder
    parts: AnswerSplit

    @staticmethod
    def from_answers(answers: Sequence[Answer], vocabulary: Vocabulary, encoder: Encoder) -> "Teacher":
        """Encode and split the answers. Raises CatalogError if there are fewer than ANSWERS_MIN."""
        if len(answers) < ANSWERS_MIN:
            raise CatalogError(f"distillation needs at least {ANSWERS_MIN} answers from a language model, found {len(answers)}")
        vectors = encoder.encode([content.text for content, _ in answers])
        return Teacher(answers, vectors, vocabulary, encoder, split_answers(answers))

    def train_student(self, config: StudentTrainingConfig, progress: Callable[[int], None] = lambda epochs: None) -> Student:
        """A student trained on the training part."""
        rows = self.parts.train
        knowledge = [self.answers[row][1] for row in rows]
        model = train(self.vectors[rows], knowledge, self.vocabulary, config, progress)
        return Student(model, self.vocabulary, "unpublished")


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of one reasoner on one kind of held-out items, by claim group; the last one is over all groups."""

    items: str
    count: int
    reasoner: str
    scores: list[GroupScore]


def examine(teacher: Teacher, student: Student) -> list[HeldOutScores]:
    """Score the student, the zero-shot reasoner and a copy of the nearest training item on both kinds of held-out items."""
    train_rows = teacher.parts.train
    known = [teacher.answers[row][1] for row in train_rows]
    results = []
    for name, rows in teacher.parts.held_out.items():
        vectors = teacher.vectors[rows]
        truth = build_targets([teacher.answers[row][1] for row in rows], teacher.vocabulary)
        items = [ReasoningItem(teacher.answers[row][0]) for row in rows]
        zero_shot = asyncio.run(ZeroShotReasoner(teacher.encoder, teacher.vocabulary).reason(items, vectors))
        nearest = copy_nearest(teacher.vectors[train_rows], known, vectors)
        reasoners = {
            "student": PredictedClaims(*student.predict(vectors)),
            "zero-shot": build_predicted_claims(zero_shot, teacher.vocabulary),
            "nearest": build_predicted_claims(nearest, teacher.vocabulary),
        }
        for reasoner, predicted in reasoners.items():
            scores = score_claims(predicted, truth, teacher.vocabulary)
            results.append(HeldOutScores(name, len(rows), reasoner, scores))
    return results
