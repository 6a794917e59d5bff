"""The pipeline: demand ∥ attribute ∥ relation → critic → one repair round → synthesis, for one item at a time.

It asks through an `LlmCall`, which decides where answers come from: an endpoint, the ledger alone, or a batch file.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from reaseq.knowledge import metrics
from reaseq.knowledge.agents.answers import CONFIDENCES, Strict, parse
from reaseq.knowledge.agents.prompts import DRAFTING, Agent
from reaseq.knowledge.content import Content
from reaseq.knowledge.guard import admit, admit_phrases, admit_profile
from reaseq.knowledge.llm.call import Completion, LlmRequest
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim, ProductKnowledge

LlmCall = Callable[[LlmRequest], Awaitable[Completion]]


class Rejected(Exception):
    """An agent's answer cannot be used; `reason` is a code."""

    def __init__(self, agent: str, reason: str) -> None:
        super().__init__(f"{agent}: {reason}")
        self.agent = agent
        self.reason = reason


@dataclass
class Draft:
    """What the drafting agents have put together so far."""

    claims: list[Claim] = field(default_factory=list)
    product_type: str = ""
    complements: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AgentPipeline:
    """The agents of one vocabulary, and whose claims they make."""

    agents: Mapping[str, Agent]
    vocabulary: Vocabulary
    speaker: str
    text_limit_chars: int

    async def run(
        self, content: Content, ask: LlmCall, drafting: Collection[str] = DRAFTING, given: tuple[Claim, ...] = ()
    ) -> ProductKnowledge:
        """Knowledge of one item. `drafting` are the agents that are asked, `given` the claims that others made for the rest.

        An agent whose answer is rejected leaves its groups empty. Raises Rejected where no agent's answer can be used, and
        where the critic's cannot: claims that nobody has checked do not stand.
        """
        draft = await self._draft(content, ask, drafting)
        objections = await self._review(content, ask, draft)
        await self._repair(content, ask, draft, objections)
        claims = (*draft.claims, *given)
        order = {group.name: place for place, group in enumerate(self.vocabulary.groups)}
        return ProductKnowledge(
            vocabulary=self.vocabulary.version,
            claims=tuple(sorted(claims, key=lambda claim: order[claim.group])),
            product_type=draft.product_type,
            profile=await self._synthesize(content, ask, claims),
            complements=draft.complements,
            substitutes=draft.substitutes,
        )

    async def _draft(self, content: Content, ask: LlmCall, drafting: Collection[str]) -> Draft:
        names = [name for name in DRAFTING if name in drafting]
        answers = await asyncio.gather(*(self._answer(ask, name, content) for name in names), return_exceptions=True)
        _raise_others(answers)
        draft, rejections = Draft(), []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Strict):
                self._take(draft, name, answer, content)
            elif isinstance(answer, Rejected):
                rejections.append(answer)
        if len(rejections) == len(names):
            raise rejections[0]
        return draft

    def _take(self, draft: Draft, name: str, answer: Strict, content: Content) -> None:
        given = answer.model_dump()
        draft.claims += self._claims(name, given, content)
        if name == "attribute":
            draft.product_type = next(iter(admit_phrases([given["product_type"]])), "")
        if name == "relation":
            draft.complements, draft.substitutes = admit_phrases(given["complements"]), admit_phrases(given["substitutes"])

    def _claims(self, name: str, given: Mapping[str, Any], content: Content) -> tuple[Claim, ...]:
        groups = [group.name for group in self.vocabulary.groups if group.agent == name]
        made = (
            Claim(group, claim["value"], CONFIDENCES[claim["confidence"]], self.speaker, claim["evidence"])
            for group in groups
            for claim in given[group]
        )
        return admit(made, self.vocabulary, content, name, quoting=True)

    async def _review(self, content: Content, ask: LlmCall, draft: Draft) -> dict[str, list[dict[str, str]]]:
        """Drops the claims that the critic found wrong; returns, by agent, those to be revised and why."""
        if not draft.claims:
            return {}
        agent_by_group = {group.name: group.agent for group in self.vocabulary.groups}
        answer = await self._answer(ask, "critic", content, claims=_numbered(draft.claims))
        verdicts = {objection["claim"]: objection for objection in answer.model_dump()["objections"]}
        standing, revise = [], {}  # type: ignore[var-annotated]
        for number, claim in enumerate(draft.claims, start=1):
            verdict = verdicts.get(number)
            if verdict is None:
                standing.append(claim)
                continue
            metrics.CLAIMS_DROPPED.labels(agent_by_group[claim.group], f"critic_{verdict['verdict']}").inc()
            if verdict["verdict"] == "revise":
                fault = {"group": claim.group, "value": claim.value, "fault": verdict["note"]}
                revise.setdefault(agent_by_group[claim.group], []).append(fault)
        draft.claims = standing
        return revise

    async def _repair(self, content: Content, ask: LlmCall, draft: Draft, objections: dict[str, list[dict[str, str]]]) -> None:
        """Asks the agents whose claims were sent back once more, and takes their answers for the groups in question."""
        names = [name for name in DRAFTING if name in objections]
        answers = await asyncio.gather(
            *(self._answer(ask, name, content, objections=objections[name]) for name in names), return_exceptions=True
        )
        _raise_others(answers)
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Strict):
                asked = {fault["group"] for fault in objections[name]}
                faulty = {(fault["group"], fault["value"]) for fault in objections[name]}
                again = [claim for claim in self._claims(name, answer.model_dump(), content) if claim.group in asked]
                repaired = [claim for claim in again if (claim.group, claim.value) not in faulty]
                draft.claims = list(admit([*draft.claims, *repaired], self.vocabulary, content, name))

    async def _synthesize(self, content: Content, ask: LlmCall, claims: tuple[Claim, ...]) -> str:
        if not claims:
            return ""
        try:
            answer = await self._answer(ask, "synthesis", content, claims=[f"{c.group}: {c.value}" for c in claims])
        except Rejected:
            return ""  # the claims stand without it: the item keeps the vector of its text
        return admit_profile(answer.model_dump()["profile"])

    async def _answer(self, ask: LlmCall, name: str, content: Content, **more: Any) -> Strict:
        agent = self.agents[name]
        completion = await ask(agent.ask(content, self.text_limit_chars, **more))
        reason = completion.rejected
        if not reason:
            answer, reason = parse(agent.answer, completion.text)
            if answer:
                return answer
        raise Rejected(name, reason)


def thinking(text: str) -> str:
    """The `reasoning` field of an answer; empty where there is none to be read."""
    try:
        return str(json.loads(text)["reasoning"])
    except (ValueError, LookupError, TypeError):
        return ""


def _numbered(claims: list[Claim]) -> list[dict[str, Any]]:
    return [
        {"claim": number, "group": claim.group, "value": claim.value, "evidence": claim.evidence}
        for number, claim in enumerate(claims, start=1)
    ]


def _raise_others(outcomes: list[Strict | BaseException]) -> None:
    """A rejection is an outcome; anything else that was raised is not."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Rejected):
            raise outcome
