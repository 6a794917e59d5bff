"""The interface of explicit reasoning: items in, product knowledge out, whoever reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge.content import Content
from reaseq.records import ProductKnowledge


@dataclass(frozen=True)
class ReasoningItem:
    """An item that is reasoned about. Only the content reaches a prompt; the ids say on whose account."""

    content: Content
    item_id: str = ""
    seller_id: str = ""


Answers = list[ProductKnowledge | None]


class Reasoner(Protocol):
    """Turns items into knowledge. `identity` names everything that its answers depend on beside the content."""

    @property
    def identity(self) -> str: ...

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Knowledge of each item, in order; None where this reasoner has no answer. `vectors` (N, D): their text vectors.

        Raises Unavailable where the answers must be waited for.
        """
        ...


class FirstAnswer:
    """Asks one reasoner after the other and takes, for each item, the first answer."""

    def __init__(self, *reasoners: Reasoner) -> None:
        self._reasoners = reasoners
        self.identity = " > ".join(reasoner.identity for reasoner in reasoners)

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """The first answer to each item; None where nobody has one."""
        answers: Answers = [None] * len(items)
        for reasoner in self._reasoners:
            unanswered = [place for place, answer in enumerate(answers) if answer is None]
            if not unanswered:
                break
            given = await reasoner.reason([items[place] for place in unanswered], vectors[unanswered])
            for place, answer in zip(unanswered, given, strict=True):
                answers[place] = answer
        return answers
