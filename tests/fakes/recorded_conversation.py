"""A stand-in for a capable language model: its recorded answers to the agents, looked up by agent and item.

Recorded in November 2026 with the prompts of that time, which asked for the same claims. What those prompts did not ask is
derived: a correction is taken from the answer that was then made anew, and the critic has no objection to free texts.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.request import CHARS_PER_TOKEN, Completion, LlmRequest

CONVERSATION = Path(__file__).with_suffix(".jsonl")
VOCABULARIES = {"online_retail": "giftware-3", "amazon_beauty": "beauty-2"}


class RecordedModel:
    """An `LlmCall` that answers for the items of one catalog, and counts calls and estimated tokens."""

    def __init__(self, catalog: str) -> None:
        lines = [json.loads(line) for line in CONVERSATION.read_text().splitlines()]
        self._lines = [line for line in lines if line["catalog"] == catalog]
        self._answers = {(_key(line["user"]["item"]), line["agent"], line["repair"]): line for line in self._lines}
        self.calls: Counter[str] = Counter()
        self.chars_in: Counter[str] = Counter()
        self.chars_out: Counter[str] = Counter()

    @property
    def contents(self) -> list[Content]:
        """The items, once each."""
        items = {_key(line["user"]["item"]): line["user"]["item"] for line in self._lines}
        return [Content.from_listing(item["title"], item.get("attributes", {})) for item in items.values()]

    @property
    def tokens_in_per_item(self) -> float:
        """Estimated input tokens of all calls, per item."""
        return self.chars_in.total() / CHARS_PER_TOKEN / len(self.contents)

    async def __call__(self, request: LlmRequest) -> Completion:
        answer = json.dumps(self._answer(request.agent, json.loads(request.user)), ensure_ascii=False)
        self.calls[request.agent] += 1
        self.chars_in[request.agent] += len(request.system) + len(request.user)
        self.chars_out[request.agent] += len(answer)
        return Completion(answer)

    def _answer(self, agent: str, user: dict[str, Any]) -> Any:
        key = _key(user["item"])
        if agent == "critic":
            return self._criticize(self._answers[key, agent, False], user["claims"])
        if agent == "repair":
            return {"reasoning": "", "corrections": [fix for fault in user["objections"] if (fix := self._correct(key, fault))]}
        return self._answers[key, agent, False]["answer"]

    @staticmethod
    def _criticize(recorded: dict[str, Any], claims: dict[str, str]) -> Any:
        """The recorded objections, under the present numbers of their claims."""
        numbers = {" ".join(line.split()[:2]): int(number) for number, line in claims.items()}
        was = recorded["user"]["claims"]
        return {
            "reasoning": recorded["answer"]["reasoning"],
            "objections": [
                {**objection, "claim": numbers[was[objection["claim"] - 1]]}
                for objection in recorded["answer"]["objections"]
                if was[objection["claim"] - 1] in numbers
            ],
        }

    def _correct(self, key: str, fault: dict[str, Any]) -> Any:
        """The recorded answer's first claim in the group, under the claim's number."""
        for (item, _, repair), line in self._answers.items():
            if item == key and repair and f"{fault['group']}: {fault['value']}" in line["user"]["objections"]:
                claim = line["answer"][fault["group"]][0]
                return {"claim": fault["claim"], "evidence": "", **claim}
        return None


def _key(item: dict[str, Any]) -> str:
    return json.dumps(item, sort_keys=True)
