"""The recorded reasoner: answers that a real LLM gave earlier, found by the item's content."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reaseq.knowledge.content import Content
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim, ProductKnowledge

RECORDED = "recorded"
CONFIDENCE = 1.0  # the LLM gave no confidences: an answer that passed the vocabulary stands as it is
PHRASES_LIMIT = 8


class RecordedReasoner:
    """Looks answers up; has none for content that nobody reasoned about."""

    def __init__(self, answers: dict[str, ProductKnowledge], source: str) -> None:
        self._answers = answers
        self.identity = f"{RECORDED}:{source}"

    @staticmethod
    def from_parquet(path: Path, vocabulary: Vocabulary) -> "RecordedReasoner":
        """Read answers from a table with one column a group, `description`, and the free texts.

        A claim outside the vocabulary is dropped: a recorded answer gets no more trust than a live one.
        """
        answers: dict[str, ProductKnowledge] = {}
        for answer in pq.read_table(path).to_pylist():
            answers.setdefault(Content.of(answer["description"], {}).hash, _knowledge(answer, vocabulary))
        return RecordedReasoner(answers, path.stem)

    async def reason(self, contents: Sequence[Content], vectors: NDArray[np.float32]) -> list[ProductKnowledge | None]:
        """The recorded answer to each content, if there is one."""
        return [self._answers.get(content.hash) for content in contents]


def _knowledge(answer: dict[str, Any], vocabulary: Vocabulary) -> ProductKnowledge:
    claims = []
    for group in vocabulary.groups:
        given = answer[group.name]
        values = [given] if isinstance(given, str) else given or []
        claims += [
            Claim(group.name, value, CONFIDENCE, RECORDED)
            for value in values[: group.most]
            if (group.name, value) in vocabulary
        ]
    return ProductKnowledge(
        vocabulary=vocabulary.version,
        claims=tuple(claims),
        product_type=answer["product_type"],
        profile=answer["profile"],
        complements=tuple(answer["complements"][:PHRASES_LIMIT]),
        substitutes=tuple(answer["substitutes"][:PHRASES_LIMIT]),
    )
