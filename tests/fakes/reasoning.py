"""Stand-ins for a language model: a small vocabulary, and a model that says what a test tells it to."""

import json
from collections.abc import Sequence
from typing import Any

from reaseq.knowledge.agents.agent_pipeline import AgentPipeline
from reaseq.knowledge.agents.prompts import make_agents
from reaseq.knowledge.llm.call import Completion, LlmRequest, Model, Usage
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
    "synthesis": {"reasoning": "In short.", "profile": "A mug for hot drinks."},
}


class ScriptedModel:
    """Answers each agent in turn with what was put there for it; the last answer repeats. Keeps every call."""

    def __init__(self, **answers: Any) -> None:
        self._answers = {**GOOD, **answers}
        self.calls: list[LlmRequest] = []

    async def __call__(self, call: LlmRequest) -> Completion:
        self.calls.append(call)
        answer = self._answers[call.agent]
        if isinstance(answer, list):
            earlier = sum(asked.agent == call.agent for asked in self.calls) - 1
            answer = answer[min(earlier, len(answer) - 1)]
        if callable(answer):
            answer = answer(call)
        if isinstance(answer, Completion):
            return answer
        return Completion(answer if isinstance(answer, str) else json.dumps(answer), usage=USAGE)

    @property
    def asked(self) -> Sequence[str]:
        """The agents in the order they were asked."""
        return [call.agent for call in self.calls]
