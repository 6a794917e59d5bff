"""The recorded reasoner: stored answers of a real LLM, looked up by the item's content."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reaseq.errors import CatalogError
from reaseq.knowledge.content import Content
from reaseq.knowledge.guard import admit
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim, ProductKnowledge

RECORDED = "recorded"
CONFIDENCE = 1.0  # recorded answers have no confidences
PHRASES_LIMIT = 8
REQUIRED = {"description", "product_type", "profile", "complements", "substitutes"}
VOCABULARY = "giftware-1"  # vocabulary of a table whose metadata names none
VOCABULARY_KEY = b"vocabulary"


class RecordedReasoner:
    """Looks up answers by content hash."""

    def __init__(self, answers: dict[str, ProductKnowledge], source: str) -> None:
        self._answers = answers
        self.identity = f"{RECORDED}:{source}"

    @staticmethod
    def from_parquet(path: Path, vocabulary: Vocabulary) -> "RecordedReasoner":
        """Read the answers of a table (see `read_answers`); the first one of each content counts."""
        answers: dict[str, ProductKnowledge] = {}
        for content, knowledge in read_answers(path, vocabulary):
            answers.setdefault(content.hash, knowledge)
        return RecordedReasoner(answers, path.stem)

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """The recorded answer for each item, or None."""
        return [self._answers.get(item.content.hash) for item in items]


def read_answers(path: Path, vocabulary: Vocabulary) -> Iterator[tuple[Content, ProductKnowledge]]:
    """Contents and answers of a table with `description`, the free-text columns, and one column per group.

    Claims are migrated to `vocabulary` and checked like those of a live answer. Raises CatalogError for any other file.
    """
    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
    except (pa.ArrowException, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CatalogError(f"{path} has no recorded answers: {reason}") from error
    if missing := REQUIRED - set(table.column_names):
        raise CatalogError(f"{path} has no recorded answers: no column {', '.join(sorted(missing))}")
    version = (table.schema.metadata or {}).get(VOCABULARY_KEY, VOCABULARY.encode()).decode()
    for answer in table.to_pylist():
        content = Content.from_listing(answer["description"], {})
        yield content, _to_knowledge(answer, content, version, vocabulary)


def _to_knowledge(answer: dict[str, Any], content: Content, version: str, vocabulary: Vocabulary) -> ProductKnowledge:
    claims = []
    for group in vocabulary.groups:
        recorded = answer.get(group.name) or []
        values = [recorded] if isinstance(recorded, str) else recorded
        claims += [Claim(group.name, value, CONFIDENCE, RECORDED) for value in values]
    adopted = vocabulary.adopt(ProductKnowledge(vocabulary=version, claims=tuple(claims)))
    return ProductKnowledge(
        vocabulary=vocabulary.version,
        claims=admit(adopted.claims, vocabulary, content, RECORDED),
        product_type=answer["product_type"],
        profile=answer["profile"],
        complements=tuple(answer["complements"][:PHRASES_LIMIT]),
        substitutes=tuple(answer["substitutes"][:PHRASES_LIMIT]),
    )
