"""The recorded reasoner: answers that a real LLM gave earlier, found by the item's content."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reaseq.knowledge.content import Content
from reaseq.knowledge.guard import admit
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim, ProductKnowledge

RECORDED = "recorded"
CONFIDENCE = 1.0  # the LLM gave no confidences: an answer that passed the vocabulary stands as it is
PHRASES_LIMIT = 8
VOCABULARY = "giftware-1"  # what the table's claims are held to, where its metadata does not say
VOCABULARY_KEY = b"vocabulary"


class RecordedReasoner:
    """Looks answers up; has none for content that nobody reasoned about."""

    def __init__(self, answers: dict[str, ProductKnowledge], source: str) -> None:
        self._answers = answers
        self.identity = f"{RECORDED}:{source}"

    @staticmethod
    def from_parquet(path: Path, vocabulary: Vocabulary) -> "RecordedReasoner":
        """Read answers from a table (see `read_answers`)."""
        answers: dict[str, ProductKnowledge] = {}
        for content, knowledge in read_answers(path, vocabulary):
            answers.setdefault(content.hash, knowledge)
        return RecordedReasoner(answers, path.stem)

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """The recorded answer to each item's content, if there is one."""
        return [self._answers.get(item.content.hash) for item in items]


def read_answers(path: Path, vocabulary: Vocabulary) -> Iterator[tuple[Content, ProductKnowledge]]:
    """Contents and their answers out of a table with `description`, the free texts, and a column a group.

    The claims are migrated to `vocabulary`, and one that it lacks is dropped: a recorded answer gets no more trust than a
    live one.
    """
    table = pq.read_table(path)
    spoken = (table.schema.metadata or {}).get(VOCABULARY_KEY, VOCABULARY.encode()).decode()
    for answer in table.to_pylist():
        content = Content.from_listing(answer["description"], {})
        yield content, _knowledge(answer, content, spoken, vocabulary)


def _knowledge(answer: dict[str, Any], content: Content, spoken: str, vocabulary: Vocabulary) -> ProductKnowledge:
    claims = []
    for group in vocabulary.groups:
        given = answer.get(group.name) or []
        values = [given] if isinstance(given, str) else given
        claims += [Claim(group.name, value, CONFIDENCE, RECORDED) for value in values]
    adopted = vocabulary.adopt(ProductKnowledge(vocabulary=spoken, claims=tuple(claims)))
    return ProductKnowledge(
        vocabulary=vocabulary.version,
        claims=admit(adopted.claims, vocabulary, content, RECORDED),
        product_type=answer["product_type"],
        profile=answer["profile"],
        complements=tuple(answer["complements"][:PHRASES_LIMIT]),
        substitutes=tuple(answer["substitutes"][:PHRASES_LIMIT]),
    )
