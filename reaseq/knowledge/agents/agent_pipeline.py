"""The agent pipeline for one item: demand ∥ attribute ∥ relation → critic → one repair round → synthesis.

An `LlmCall` answers the agents' requests: from the endpoint and the ledger, or from the ledger alone.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from reaseq.knowledge import metrics
from reaseq.knowledge.agents.answers import CONFIDENCES, Strict, parse
from reaseq.knowledge.agents.prompts import DRAFTING, Agent
from reaseq.knowledge.content import Content
from reaseq.knowledge.guard import admit, admit_phrases, admit_profile
from reaseq.knowledge.llm.request import LlmCall
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim, ProductKnowledge

Objections = dict[str, list[dict[str, str]]]  # agent → claims to revise: group, value, fault


class Rejected(Exception):
    """An agent's answer is unusable; `reason` is a code."""

    def __init__(self, agent: str, reason: str) -> None:
        super().__init__(f"{agent}: {reason}")
        self.agent = agent
        self.reason = reason


@dataclass
class Draft:
    """Claims and phrases of the drafting agents so far."""

    claims: list[Claim] = field(default_factory=list)
    product_type: str = ""
    complements: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AgentPipeline:
    """The agents for one vocabulary. `reasoner` is the provenance of their claims."""

    agents: Mapping[str, Agent]
    vocabulary: Vocabulary
    reasoner: str
    text_limit_chars: int

    async def run(
        self,
        content: Content,
        call_llm: LlmCall,
        drafting: Collection[str] = DRAFTING,
        given_claims: tuple[Claim, ...] = (),
    ) -> ProductKnowledge:
        """Knowledge about one item. Runs the `drafting` agents; `given_claims` come from other reasoners and cover the rest.

        An agent whose answer is rejected leaves its groups empty. Raises Rejected if no drafting agent has a usable answer,
        or if the critic has none, since unchecked claims are never returned.
        """
        draft = await self._draft(content, call_llm, drafting)
        objections = await self._review(content, call_llm, draft)
        await self._repair(content, call_llm, draft, objections)
        claims = (*draft.claims, *given_claims)
        order = {group.name: index for index, group in enumerate(self.vocabulary.groups)}
        return ProductKnowledge(
            vocabulary=self.vocabulary.version,
            claims=tuple(sorted(claims, key=lambda claim: order[claim.group])),
            product_type=draft.product_type,
            profile=await self._synthesize(content, call_llm, claims),
            complements=draft.complements,
            substitutes=draft.substitutes,
        )

    async def _draft(self, content: Content, call_llm: LlmCall, drafting: Collection[str]) -> Draft:
        names = [name for name in DRAFTING if name in drafting]
        answers = await asyncio.gather(*(self._answer(call_llm, name, content) for name in names), return_exceptions=True)
        _raise_unexpected(answers)
        draft, rejections = Draft(), []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Strict):
                self._add_to_draft(draft, name, answer, content)
            elif isinstance(answer, Rejected):
                rejections.append(answer)
        if len(rejections) == len(names):
            raise rejections[0]
        return draft

    def _add_to_draft(self, draft: Draft, name: str, answer: Strict, content: Content) -> None:
        fields = answer.model_dump()
        draft.claims += self._admit_claims(name, fields, content)
        if name == "attribute":
            draft.product_type = next(iter(admit_phrases([fields["product_type"]])), "")
        if name == "relation":
            draft.complements, draft.substitutes = admit_phrases(fields["complements"]), admit_phrases(fields["substitutes"])

    def _admit_claims(self, name: str, fields: Mapping[str, Any], content: Content) -> tuple[Claim, ...]:
        groups = [group.name for group in self.vocabulary.groups if group.agent == name]
        claims = (
            Claim(group, claim["value"], CONFIDENCES[claim["confidence"]], self.reasoner, claim["evidence"])
            for group in groups
            for claim in fields[group]
        )
        return admit(claims, self.vocabulary, content, name, quoting=True)

    async def _review(self, content: Content, call_llm: LlmCall, draft: Draft) -> Objections:
        """Drop the claims that the critic objects to; returns those that their agents should revise."""
        if not draft.claims:
            return {}
        agent_by_group = {group.name: group.agent for group in self.vocabulary.groups}
        answer = await self._answer(call_llm, "critic", content, claims=_number(draft.claims))
        verdicts = {objection["claim"]: objection for objection in answer.model_dump()["objections"]}
        accepted: list[Claim] = []
        to_revise: Objections = {}
        for number, claim in enumerate(draft.claims, start=1):
            verdict = verdicts.get(number)
            if verdict is None:
                accepted.append(claim)
                continue
            metrics.CLAIMS_DROPPED.labels(agent_by_group[claim.group], f"critic_{verdict['verdict']}").inc()
            if verdict["verdict"] == "revise":
                fault = {"group": claim.group, "value": claim.value, "fault": verdict["note"]}
                to_revise.setdefault(agent_by_group[claim.group], []).append(fault)
        draft.claims = accepted
        return to_revise

    async def _repair(self, content: Content, call_llm: LlmCall, draft: Draft, objections: Objections) -> None:
        """Call the agents whose claims were objected to once more, and add their new claims in the affected groups."""
        names = [name for name in DRAFTING if name in objections]
        answers = await asyncio.gather(
            *(self._answer(call_llm, name, content, objections=objections[name]) for name in names), return_exceptions=True
        )
        _raise_unexpected(answers)
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Strict):
                groups = {fault["group"] for fault in objections[name]}
                faulty = {(fault["group"], fault["value"]) for fault in objections[name]}
                again = [claim for claim in self._admit_claims(name, answer.model_dump(), content) if claim.group in groups]
                repaired = [claim for claim in again if (claim.group, claim.value) not in faulty]
                draft.claims = list(admit([*draft.claims, *repaired], self.vocabulary, content, name))

    async def _synthesize(self, content: Content, call_llm: LlmCall, claims: tuple[Claim, ...]) -> str:
        if not claims:
            return ""
        try:
            answer = await self._answer(call_llm, "synthesis", content, claims=[f"{c.group}: {c.value}" for c in claims])
        except Rejected:
            return ""  # the claims are valid without a profile; the item keeps its text vector
        return admit_profile(answer.model_dump()["profile"])

    async def _answer(self, call_llm: LlmCall, name: str, content: Content, **more: Any) -> Strict:
        agent = self.agents[name]
        completion = await call_llm(agent.build_request(content, self.text_limit_chars, **more))
        reason = completion.rejected
        if not reason:
            answer, reason = parse(agent.answer, completion.text)
            if answer:
                return answer
        raise Rejected(name, reason)


def _number(claims: list[Claim]) -> list[dict[str, Any]]:
    return [
        {"claim": number, "group": claim.group, "value": claim.value, "evidence": claim.evidence}
        for number, claim in enumerate(claims, start=1)
    ]


def _raise_unexpected(outcomes: list[Strict | BaseException]) -> None:
    """Re-raise the first exception that is not a rejection."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Rejected):
            raise outcome
