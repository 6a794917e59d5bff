"""The student: a language model's accepted answers → train → measure on held-out items → publish."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from evaluation.claims import Answer
from evaluation.distillation import HeldOutScores, Teacher, examine
from features.repository import FeatureRepository
from pipelines.catalog import scan_listed_items
from pipelines.knowledge import TEACHERS
from reaseq.artifacts import Artifact
from reaseq.knowledge.content import Content
from reaseq.knowledge.recorded import read_answers
from reaseq.knowledge.student import Student, StudentTrainingConfig
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.representation.encoder import Encoder
from reaseq.settings import Settings


def build_teacher(settings: Settings, answers: Path | None) -> Teacher:
    """A language model's answers, from a file or else from the feature store, with their items' vectors."""
    vocabulary = load_vocabulary(settings.knowledge.vocabulary)
    found = list(read_answers(answers, vocabulary)) if answers else list(_answers_in_store(settings))
    return Teacher.from_answers(found, vocabulary, Encoder(settings.encoder))


class StudentPipeline:
    """Distills a teacher into a student, measures it and publishes it."""

    def __init__(self, teacher: Teacher, models_dir: Path) -> None:
        self.teacher = teacher
        self._models_dir = models_dir

    def train(self, config: StudentTrainingConfig, progress: Callable[[int], None]) -> Student:
        """A student trained on the answers that are not held out."""
        return self.teacher.train_student(config, progress)

    def measure(self, student: Student) -> list[HeldOutScores]:
        """Score the student and its baselines on held-out items."""
        return examine(self.teacher, student)

    def publish(self, student: Student, measured: Sequence[HeldOutScores]) -> Artifact:
        """Publish a trained student with its measured scores."""
        facts = {
            "vocabulary": self.teacher.vocabulary.version,
            "space_id": self.teacher.encoder.space_id,
            "answers": len(self.teacher.parts.train),
            "held_out": {f"{result.reasoner}, {result.items}": asdict(result.scores[-1]) for result in measured},
        }
        return student.publish(self._models_dir, facts)


def _answers_in_store(settings: Settings) -> Iterator[Answer]:
    repository = FeatureRepository(settings)
    for record in scan_listed_items(repository):
        if record.knowledge:
            claims = record.knowledge.claims
            if claims and all(claim.reasoner.startswith(TEACHERS) for claim in claims):
                content = Content.from_listing(record.title, record.attributes)
                yield content, repository.vocabulary.adopt(record.knowledge)
