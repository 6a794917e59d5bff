"""The agents' prompts: template files filled with the vocabulary. The system prompt is byte-identical for every item."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

from reaseq.knowledge.agents import schemas
from reaseq.knowledge.agents.answers import read_corrections, read_draft, read_objections, read_profile
from reaseq.knowledge.content import Content, digest
from reaseq.knowledge.llm.quoting import as_data
from reaseq.knowledge.llm.request import LlmRequest
from reaseq.knowledge.vocabulary import Group, Vocabulary

FOLDER = Path(__file__).with_name("prompts")
DRAFTING = ("demand", "attribute", "relation")
AGENTS = (*DRAFTING, "critic", "repair", "synthesis")


@dataclass(frozen=True)
class Agent:
    """One agent: its name, its system prompt, the JSON schema of its answer, and the function that reads the answer."""

    name: str
    system: str
    schema: str
    read: Callable[[str], Any]

    def build_request(self, content: Content, text_limit_chars: int, priority: int, **more: Any) -> LlmRequest:
        """The request about one item. `more` are additional fields of the user's JSON, after the item."""
        return LlmRequest(self.name, self.system, _user_message(content, text_limit_chars, more), self.schema, priority)


def make_agents(vocabulary: Vocabulary, reasoning_limit_chars: int) -> dict[str, Agent]:
    """The agents for a vocabulary, by name."""
    agents = {}
    for name in DRAFTING:
        groups = tuple(group for group in vocabulary.groups if group.agent == name)
        texts = _fill(
            reasoning_limit_chars, "common", "drafting", name, vocabulary=_describe(groups), shape=_shape(name, groups)
        )
        schema = schemas.draft_schema(name, groups, reasoning_limit_chars)
        agents[name] = Agent(name, texts, schema, partial(read_draft, agent=name, groups=[group.name for group in groups]))
    for name, make_schema, read in (
        ("critic", schemas.critic_schema, read_objections),
        ("repair", schemas.repair_schema, read_corrections),
        ("synthesis", schemas.synthesis_schema, read_profile),
    ):
        agents[name] = Agent(name, _fill(reasoning_limit_chars, "common", name), make_schema(reasoning_limit_chars), read)
    return agents


def prompt_version(agents: dict[str, Agent]) -> str:
    """A hash of all prompts, vocabulary definitions and answer schemas."""
    return digest(*(part for agent in agents.values() for part in (agent.system, agent.schema)))[:12]


def _fill(reasoning_limit_chars: int, *files: str, **parts: str) -> str:
    template = "\n\n".join((FOLDER / f"{file}.md").read_text().strip() for file in files)
    return Template(template).substitute(parts, reasoning_limit_chars=reasoning_limit_chars, **schemas.LIMITS)


def _describe(groups: Sequence[Group]) -> str:
    blocks = []
    for group in groups:
        bounds = str(group.least) if group.least == group.most else f"{group.least} to {group.most}"
        quoted = ", each with evidence" if group.evidence_required else ""
        lines = [f"- {value}: {definition}" for value, definition in group.values.items() if definition]
        if plain := [value for value, definition in group.values.items() if not definition]:
            lines.append(f"- {', '.join(plain)}")
        blocks.append("\n".join([f"## {group.name} ({bounds}{quoted}): {group.question}", *lines]))
    return "\n\n".join(blocks)


def _shape(name: str, groups: Sequence[Group]) -> str:
    """The shape of a drafting agent's answer, with the claim spelled out in the first group only."""
    claim = {"value": f"one of {groups[0].name}", "confidence": "likely"} if groups else {}
    claim |= {"evidence": "words of the item"} if groups and groups[0].evidence_required else {}
    free = {field: "…" if schema["type"] == "string" else ["…"] for field, schema in schemas.FREE_TEXT[name].items()}
    claims = {group.name: [claim] if group is groups[0] else ["…"] for group in groups}
    return json.dumps({"reasoning": "…", **free, **claims}, ensure_ascii=False, separators=(",", ":"))


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
