"""The interface of explicit reasoning: item content in, product knowledge out, whoever reasons."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge.content import Content
from reaseq.records import ProductKnowledge


class Reasoner(Protocol):
    """Turns contents into knowledge. `identity` names everything that its answers depend on beside the content."""

    @property
    def identity(self) -> str: ...

    async def reason(self, contents: Sequence[Content], vectors: NDArray[np.float32]) -> list[ProductKnowledge | None]:
        """Knowledge of each content, in order; None where this reasoner has no answer. `vectors` (N, D): their text vectors."""
        ...


class FirstAnswer:
    """Asks one reasoner after the other and takes, for each content, the first answer."""

    def __init__(self, *reasoners: Reasoner) -> None:
        self._reasoners = reasoners
        self.identity = " > ".join(reasoner.identity for reasoner in reasoners)

    async def reason(self, contents: Sequence[Content], vectors: NDArray[np.float32]) -> list[ProductKnowledge | None]:
        """The first answer to each content; None where nobody has one."""
        answers: list[ProductKnowledge | None] = [None] * len(contents)
        for reasoner in self._reasoners:
            open_places = [place for place, answer in enumerate(answers) if answer is None]
            if not open_places:
                break
            for place, answer in zip(
                open_places,
                await reasoner.reason([contents[place] for place in open_places], vectors[open_places]),
                strict=True,
            ):
                answers[place] = answer
        return answers
