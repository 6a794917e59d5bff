"""The cascade: takes claims from the student where it is confident enough, and from the LLM agents otherwise."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge.agents.prompts import DRAFTING
from reaseq.knowledge.agents.reasoner import ReasoningTask, VllmReasoner
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from reaseq.knowledge.student import Student
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import ProductKnowledge


class Cascade:
    """Runs, for each item, only the LLM agents that the student cannot replace.

    The student replaces an agent if it expects to make at least the share `threshold` of the agent's claims (see
    `student.expected_share`). `reaseq knowledge cascade` shows the cost and quality of each threshold.
    """

    def __init__(self, student: Student, llm: VllmReasoner, vocabulary: Vocabulary, threshold: float) -> None:
        self._student = student
        self._llm = llm
        self._vocabulary = vocabulary
        self._threshold = threshold
        self._agent_by_group = {group.name: group.agent for group in vocabulary.groups}
        self.identity = f"cascade:{threshold}({student.identity} | {llm.identity})"

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Knowledge about each item, with the provenance of each claim; None if the agents' answers were rejected."""
        p, claimed = await asyncio.to_thread(self._student.predict, vectors)
        replaced = (self._student.expected_shares(p, claimed) >= self._threshold).tolist()  # (N, A)
        answers: Answers = [None] * len(items)
        tasks: dict[int, ReasoningTask] = {}  # by row
        for row, item in enumerate(items):
            drafting = {agent for agent, is_replaced in zip(DRAFTING, replaced[row], strict=True) if not is_replaced}
            claims = self._student.claims(item, p[row], claimed[row])
            given_claims = tuple(claim for claim in claims if self._agent_by_group[claim.group] not in drafting)
            if drafting:
                tasks[row] = ReasoningTask(item, drafting, given_claims)
            else:
                answers[row] = ProductKnowledge(vocabulary=self._vocabulary.version, claims=given_claims)
        for row, answer in zip(tasks, await self._llm.reason_tasks(list(tasks.values())), strict=True):
            answers[row] = answer
        return answers
