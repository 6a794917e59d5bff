"""The interface of explicit reasoning: items in, product knowledge out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge.content import Content
from reaseq.records import ProductKnowledge


@dataclass(frozen=True)
class ReasoningItem:
    """An item to reason about. Only the content reaches a prompt; the ids attribute the cost."""

    content: Content
    item_id: str = ""
    seller_id: str = ""


Answers = list[ProductKnowledge | None]


class Reasoner(Protocol):
    """Turns items into knowledge. `identity` names everything that its answers depend on besides the content."""

    @property
    def identity(self) -> str: ...

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Knowledge about each item, in order; None if this reasoner has no answer. `vectors` (N, D) are text vectors.

        Raises Unavailable if the caller must wait and retry.
        """
        ...


class FirstAnswer:
    """Tries reasoners in order and returns, for each item, the first answer."""

    def __init__(self, *reasoners: Reasoner) -> None:
        self._reasoners = reasoners
        self.identity = " > ".join(reasoner.identity for reasoner in reasoners)

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """The first answer for each item; None if no reasoner has one."""
        answers: Answers = [None] * len(items)
        for reasoner in self._reasoners:
            rows = [row for row, answer in enumerate(answers) if answer is None]
            if not rows:
                break
            found = await reasoner.reason([items[row] for row in rows], vectors[rows])
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
        return answers
