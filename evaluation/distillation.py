"""The student's lesson and its examination: a teacher's answers, split, learnt from, and held against cheaper ways."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.claims import Answer, Claimed, GroupScore, Split, build_claimed, nearest_copy, score, split
from reaseq.errors import CatalogError
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.student import Student, StudentTrainingConfig, build_targets, train
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.knowledge.zero_shot import ZeroShotReasoner
from reaseq.representation.encoder import Encoder

LEAST_ANSWERS = 200  # below, nothing is left to hold out


@dataclass(frozen=True)
class Teacher:
    """Accepted answers and their items' text vectors (N, D)."""

    answers: Sequence[Answer]
    vectors: NDArray[np.float32]
    vocabulary: Vocabulary
    encoder: Encoder
    parts: Split

    @staticmethod
    def from_answers(answers: Sequence[Answer], vocabulary: Vocabulary, encoder: Encoder) -> "Teacher":
        """Encode and split the answers. Raises CatalogError where there are too few to learn from."""
        if len(answers) < LEAST_ANSWERS:
            raise CatalogError(
                f"{len(answers)} answers of a language model are too few to learn from: {LEAST_ANSWERS} at least"
            )
        vectors = encoder.encode([content.text for content, _ in answers])
        return Teacher(answers, vectors, vocabulary, encoder, split(answers))

    def train_student(self, plan: StudentTrainingConfig, progress: Callable[[int], None] = lambda epochs: None) -> Student:
        """A student of the training part."""
        places = self.parts.train
        knowledge = [self.answers[place][1] for place in places]
        model = train(self.vectors[places], knowledge, self.vocabulary, plan, progress)
        return Student(model, self.vocabulary, "unpublished")


@dataclass(frozen=True)
class HeldOut:
    """Scores of one reasoner on one kind of held-out items, by claim group; the last one is over all groups."""

    items: str
    count: int
    reasoner: str
    scores: list[GroupScore]


def examine(teacher: Teacher, student: Student) -> list[HeldOut]:
    """The student, the zero-shot reasoner and a copy of the nearest training item, on both kinds of held-out items."""
    train_places = teacher.parts.train
    known = [teacher.answers[place][1] for place in train_places]
    results = []
    for name, places in teacher.parts.held_out.items():
        vectors = teacher.vectors[places]
        truth = build_targets([teacher.answers[place][1] for place in places], teacher.vocabulary)
        items = [ReasoningItem(teacher.answers[place][0]) for place in places]
        zero_shot = asyncio.run(ZeroShotReasoner(teacher.encoder, teacher.vocabulary).reason(items, vectors))
        rivals = {
            "student": Claimed(*student.predict(vectors)),
            "zero-shot": build_claimed(zero_shot, teacher.vocabulary),
            "nearest": build_claimed(nearest_copy(teacher.vectors[train_places], known, vectors), teacher.vocabulary),
        }
        for reasoner, claims in rivals.items():
            results.append(HeldOut(name, len(places), reasoner, score(claims, truth, teacher.vocabulary)))
    return results
