"""The agents' prompts: template files filled with the vocabulary. The system prompt is byte-identical for every item."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from reaseq.knowledge.agents.answers import Strict, critic_model, draft_model, grammar, synthesis_model
from reaseq.knowledge.content import Content, digest
from reaseq.knowledge.llm.quoting import as_data
from reaseq.knowledge.llm.request import LlmRequest
from reaseq.knowledge.vocabulary import Group, Vocabulary

FOLDER = Path(__file__).with_name("prompts")
DRAFTING = ("demand", "attribute", "relation")
AGENTS = (*DRAFTING, "critic", "synthesis")


@dataclass(frozen=True)
class Agent:
    """One agent: its name, its system prompt, and the model and JSON schema of its answer."""

    name: str
    system: str
    answer: type[Strict]
    schema: str

    def build_request(self, content: Content, text_limit_chars: int, **more: Any) -> LlmRequest:
        """The request about one item. `more` are additional fields of the user's JSON, after the item."""
        priority = AGENTS.index(self.name) + len(more)  # later agents first, and a repair before a draft
        return LlmRequest(self.name, self.system, _user_message(content, text_limit_chars, more), self.schema, priority)


def make_agents(vocabulary: Vocabulary, reasoning_limit_chars: int) -> dict[str, Agent]:
    """The agents for a vocabulary, by name."""
    agents = {}
    for name in DRAFTING:
        groups = tuple(group for group in vocabulary.groups if group.agent == name)
        answer = draft_model(name, groups, reasoning_limit_chars)
        agents[name] = _make_agent(name, answer, vocabulary=_describe(groups), shape=_example(answer, groups))
    agents["critic"] = _make_agent("critic", critic_model(reasoning_limit_chars), vocabulary=_describe(vocabulary.groups))
    agents["synthesis"] = _make_agent("synthesis", synthesis_model(reasoning_limit_chars))
    return agents


def prompt_version(agents: dict[str, Agent]) -> str:
    """A hash of all prompts, vocabulary definitions and answer schemas."""
    return digest(*(part for agent in agents.values() for part in (agent.system, agent.schema)))[:12]


def _make_agent(name: str, answer: type[Strict], **parts: str) -> Agent:
    texts = [(FOLDER / f"{file}.md").read_text().strip() for file in ("common", name)]
    return Agent(name, Template("\n\n".join(texts)).substitute(parts), answer, grammar(answer))


def _describe(groups: Sequence[Group]) -> str:
    blocks = []
    for group in groups:
        bounds = str(group.least) if group.least == group.most else f"{group.least} to {group.most}"
        quoted = ", each with evidence" if group.evidence_required else ""
        lines = [f"- {value}: {definition}" for value, definition in group.values.items()]
        blocks.append("\n".join([f"## {group.name} ({bounds}{quoted}): {group.question}", *lines]))
    return "\n\n".join(blocks)


def _example(answer: type[Strict], groups: Sequence[Group]) -> str:
    shape: dict[str, Any] = {}
    for name in answer.model_fields:
        group = next((group for group in groups if group.name == name), None)
        if group:
            evidence = {"evidence": "words of the item"} if group.evidence_required else {}
            shape[name] = [{"value": f"one of {name}", "confidence": "likely", **evidence}]
        else:
            shape[name] = ["…"] if name in ("complements", "substitutes") else "…"
    return json.dumps(shape, ensure_ascii=False)


def _user_message(content: Content, text_limit_chars: int, more: dict[str, Any]) -> str:
    item: dict[str, Any] = {"title": content.title[:text_limit_chars]}
    remaining_chars = text_limit_chars - len(item["title"])
    attributes = {}
    for name, value in content.attributes:
        if remaining_chars <= len(name):
            break
        attributes[name] = value[: remaining_chars - len(name)]
        remaining_chars -= len(name) + len(attributes[name])
    if attributes:
        item["attributes"] = attributes
    return as_data({"item": item, **more})
