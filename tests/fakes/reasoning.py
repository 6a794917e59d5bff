"""Fakes of a language model: a small vocabulary, and a model with scripted answers."""

import json
from collections.abc import Sequence
from typing import Any

from reaseq.knowledge.agents.agent_pipeline import AgentPipeline
from reaseq.knowledge.agents.prompts import make_agents
from reaseq.knowledge.llm.request import Completion, LlmRequest, Model, Usage
from reaseq.knowledge.vocabulary import Group, Vocabulary

USAGE = Usage(tokens_in=100, tokens_cached=80, tokens_out=20, seconds=0.5)
MODEL = Model("stand-in", "r1")
VOCABULARY = Vocabulary(
    "small-1",
    (
        Group("category", "attribute", "What is it?", 1, 1, True, {"mug": "To drink from.", "lamp": "Gives light."}),
        Group("needs", "demand", "What for?", 1, 2, False, {"drink": "To drink.", "read": "To read.", "give": "To give."}),
        Group("season", "relation", "When?", 1, 1, False, {"winter": "Cold.", "summer": "Warm."}),
    ),
)
PIPELINE = AgentPipeline(make_agents(VOCABULARY, 200), VOCABULARY, "llm:stand-in", 2000)

GOOD: dict[str, dict[str, Any]] = {
    "attribute": {
        "reasoning": "A mug.",
        "product_type": "tea mug",
        "category": [{"value": "mug", "confidence": "certain", "evidence": "MUG"}],
    },
    "demand": {"reasoning": "One drinks.", "needs": [{"value": "drink", "confidence": "likely"}]},
    "relation": {
        "reasoning": "Warm drinks.",
        "complements": ["tea pot"],
        "substitutes": ["glass"],
        "season": [{"value": "winter", "confidence": "possible"}],
    },
    "critic": {"reasoning": "All fine.", "objections": []},
    "repair": {"reasoning": "None is right.", "corrections": []},
    "synthesis": {"reasoning": "In short.", "profile": "A mug for hot drinks."},
}


class ScriptedModel:
    """An `LlmCall` that gives each agent its scripted answers in order, repeating the last one. Records all requests.

    An answer is a Completion, text, JSON data, or a function of the request; a list is a sequence of answers.
    """

    def __init__(self, **answers: Any) -> None:
        self._answers = {**GOOD, **answers}
        self.requests: list[LlmRequest] = []

    async def __call__(self, request: LlmRequest) -> Completion:
        self.requests.append(request)
        answer = self._answers[request.agent]
        if isinstance(answer, list):
            earlier = sum(recorded.agent == request.agent for recorded in self.requests) - 1
            answer = answer[min(earlier, len(answer) - 1)]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Completion):
            return answer
        return Completion(answer if isinstance(answer, str) else json.dumps(answer), usage=USAGE)

    @property
    def called_agents(self) -> Sequence[str]:
        """The agents, in the order of their requests."""
        return [request.agent for request in self.requests]
