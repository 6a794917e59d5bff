"""The cascade: claims come from the student where it is sure enough, and from the language model's agents for the rest."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge.agents.prompts import DRAFTING
from reaseq.knowledge.agents.reasoner import VllmReasoner
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from reaseq.knowledge.student import Student
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import ProductKnowledge


class Cascade:
    """Asks, item by item, only the agents whose claims the student cannot be trusted with.

    `threshold` is the least share of an agent's claims that the student must expect to make for the agent not to be asked
    (see `student.expected_share`); `reaseq knowledge cascade` shows what each threshold costs and keeps.
    """

    def __init__(self, student: Student, model: VllmReasoner, vocabulary: Vocabulary, threshold: float) -> None:
        self._student = student
        self._model = model
        self._vocabulary = vocabulary
        self._threshold = threshold
        self._agent_by_group = {group.name: group.agent for group in vocabulary.groups}
        self.identity = f"cascade:{threshold}({student.identity} | {model.identity})"

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Knowledge of each item, each claim with the name of who made it; None where the agents' answers were rejected."""
        p, claimed = await asyncio.to_thread(self._student.predict, vectors)
        sure = (self._student.expectations(p, claimed) >= self._threshold).tolist()  # (N, A)
        answers: Answers = [None] * len(items)
        asked, places = [], []
        for place, item in enumerate(items):
            asking = {agent for agent, is_sure in zip(DRAFTING, sure[place], strict=True) if not is_sure}
            claims = self._student.claims(item, p[place], claimed[place])
            given = tuple(claim for claim in claims if self._agent_by_group[claim.group] not in asking)
            if asking:
                asked.append((item, asking, given))
                places.append(place)
            else:
                answers[place] = ProductKnowledge(vocabulary=self._vocabulary.version, claims=given)
        for place, answer in zip(places, await self._model.reason_in_part(asked), strict=True):
            answers[place] = answer
        return answers
