"""The agent pipeline for one item: demand ∥ attribute ∥ relation → critic → repair → synthesis → critic of what is new.

An `LlmCall` answers the agents' requests: from the endpoint and the ledger, or from the ledger alone.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from reaseq.knowledge import metrics
from reaseq.knowledge.agents.answers import DraftAnswer, Objection, UnusableAnswer
from reaseq.knowledge.agents.prompts import DRAFTING, Agent
from reaseq.knowledge.content import Content
from reaseq.knowledge.guard import admit, admit_phrases, admit_profile, word_runs
from reaseq.knowledge.llm.request import TRUNCATED, Completion, LlmCall, LlmRequest
from reaseq.knowledge.vocabulary import Group, Vocabulary
from reaseq.records import Claim, ProductKnowledge

RETRIED = {"malformed_json", "invalid_answer", TRUNCATED, "empty_answer"}  # rejections after which an agent is asked once more
DRAFT_ROUND, REVIEW_ROUND, REPAIR_ROUND, SYNTHESIS_ROUND, FINAL_ROUND = range(5)  # priorities: started items finish first


class Rejected(Exception):
    """An agent's answer is unusable; `reason` is a code."""

    def __init__(self, agent: str, reason: str) -> None:
        super().__init__(f"{agent}: {reason}")
        self.agent = agent
        self.reason = reason


@dataclass
class Draft:
    """What the drafting agents say, and the critic has not dropped."""

    claims: list[Claim] = field(default_factory=list)
    product_type: str = ""
    complements: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """A claim that the critic wants revised, by its number, and why."""

    number: int
    claim: Claim
    note: str


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
        or if the critic has none, since nothing unchecked is ever returned.
        """
        draft = await self._draft(content, call_llm, drafting)
        drafted = draft.claims
        faults = await self._review(content, call_llm, draft)
        objected = [claim for claim in drafted if claim not in draft.claims]
        corrections = await self._repair(content, call_llm, faults, draft.claims, objected)
        profile = await self._synthesize(content, call_llm, (*draft.claims, *corrections, *given_claims))
        corrections, profile = await self._review_news(content, call_llm, corrections, profile)
        order = {group.name: index for index, group in enumerate(self.vocabulary.groups)}
        return ProductKnowledge(
            vocabulary=self.vocabulary.version,
            claims=tuple(sorted((*draft.claims, *corrections, *given_claims), key=lambda claim: order[claim.group])),
            product_type=draft.product_type,
            profile=profile,
            complements=draft.complements,
            substitutes=draft.substitutes,
        )

    def judge(self, request: LlmRequest, completion: Completion) -> Completion:
        """The completion, rejected if its text cannot be read as the agent's answer."""
        try:
            _read(self.agents[request.agent], completion)
        except UnusableAnswer as unusable:
            return replace(completion, rejected=unusable.reason)
        return completion

    def read_claims(self, answer: DraftAnswer) -> list[Claim]:
        """The claims of a drafting agent's answer, unchecked."""
        return [
            Claim(group, claim.value, claim.confidence, self.reasoner, claim.evidence)
            for group, claims in answer.claims.items()
            for claim in claims
        ]

    async def _draft(self, content: Content, call_llm: LlmCall, drafting: Collection[str]) -> Draft:
        names = [name for name in DRAFTING if name in drafting]
        answers = await asyncio.gather(
            *(self._answer(call_llm, name, content, DRAFT_ROUND) for name in names), return_exceptions=True
        )
        _raise_unexpected(answers)
        draft, rejections = Draft(), []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, DraftAnswer):
                draft.claims += admit(self.read_claims(answer), self.vocabulary, content, name, quoting=True)
                if name == "attribute":
                    draft.product_type = next(iter(admit_phrases([answer.product_type])), "")
                if name == "relation":
                    draft.complements, draft.substitutes = admit_phrases(answer.complements), admit_phrases(answer.substitutes)
            elif isinstance(answer, Rejected):
                rejections.append(answer)
        if len(rejections) == len(names):
            raise rejections[0]
        return draft

    async def _review(self, content: Content, call_llm: LlmCall, draft: Draft) -> list[Fault]:
        """Drop what the critic objects to; returns the claims to revise."""
        texts = [("product_type", draft.product_type)] if draft.product_type else []
        texts += [(name, phrase) for name in ("complements", "substitutes") for phrase in getattr(draft, name)]
        objections = await self._criticize(content, call_llm, REVIEW_ROUND, draft.claims, texts)
        faults = [
            Fault(number, claim, objection.note)
            for number, claim in enumerate(draft.claims, start=1)
            if (objection := objections.get(number)) and objection.verdict == "revise"
        ]
        kept = {text for number, text in enumerate(texts, start=len(draft.claims) + 1) if number not in objections}
        draft.claims = [claim for number, claim in enumerate(draft.claims, start=1) if number not in objections]
        draft.product_type = draft.product_type if ("product_type", draft.product_type) in kept else ""
        draft.complements = tuple(phrase for phrase in draft.complements if ("complements", phrase) in kept)
        draft.substitutes = tuple(phrase for phrase in draft.substitutes if ("substitutes", phrase) in kept)
        return faults

    async def _repair(
        self, content: Content, call_llm: LlmCall, faults: list[Fault], accepted: list[Claim], objected: list[Claim]
    ) -> tuple[Claim, ...]:
        """New values for the claims to revise, in the same groups. No value that was objected to comes back."""
        if not faults:
            return ()
        groups = {fault.claim.group: self._groups[fault.claim.group] for fault in faults}
        objections = [
            {"claim": fault.number, "group": fault.claim.group, "value": fault.claim.value, "fault": fault.note}
            for fault in faults
        ]
        allowed = {name: dict(group.values) for name, group in groups.items()}
        try:
            answers = await self._answer(call_llm, "repair", content, REPAIR_ROUND, objections=objections, groups=allowed)
        except Rejected:
            return ()
        repaired = [
            Claim(fault.claim.group, answer.value, answer.confidence, self.reasoner, answer.evidence)
            for fault in faults
            if (answer := answers.get(fault.number))
        ]
        barred = {(claim.group, claim.value) for claim in objected}
        new = [claim for claim in repaired if (claim.group, claim.value) not in barred]
        return admit([*accepted, *new], self.vocabulary, content, "repair", quoting=True)[len(accepted) :]

    async def _synthesize(self, content: Content, call_llm: LlmCall, claims: tuple[Claim, ...]) -> str:
        if not claims:
            return ""
        try:
            values = [f"{claim.group}: {claim.value}" for claim in claims]
            profile = await self._answer(call_llm, "synthesis", content, SYNTHESIS_ROUND, claims=values)
        except Rejected:
            return ""  # the claims are valid without a profile; the item keeps its text vector
        return admit_profile(profile, self._prompt_runs)

    async def _review_news(
        self, content: Content, call_llm: LlmCall, corrections: tuple[Claim, ...], profile: str
    ) -> tuple[tuple[Claim, ...], str]:
        """The corrections and the profile that the critic does not object to: it has not seen them before."""
        texts = [("profile", profile)] if profile else []
        try:
            objections = await self._criticize(content, call_llm, FINAL_ROUND, corrections, texts)
        except Rejected:
            return (), ""
        kept = tuple(claim for number, claim in enumerate(corrections, start=1) if number not in objections)
        return kept, "" if len(corrections) + 1 in objections else profile

    async def _criticize(
        self,
        content: Content,
        call_llm: LlmCall,
        priority: int,
        claims: Collection[Claim],
        texts: Collection[tuple[str, str]],
    ) -> dict[int, Objection]:
        """The critic's objections to claims and free texts, by number; those to nothing are left out."""
        numbered = [self._describe(claim) for claim in claims] + [f"{name}: {text}" for name, text in texts]
        if not numbered:
            return {}
        listed = {str(number): line for number, line in enumerate(numbered, start=1)}
        objections: dict[int, Objection] = await self._answer(call_llm, "critic", content, priority, claims=listed)
        groups = [claim.group for claim in claims] + [name for name, _ in texts]
        for number, objection in objections.items():
            if 1 <= number <= len(groups):
                agent = self._groups[groups[number - 1]].agent if number <= len(claims) else groups[number - 1]
                metrics.CLAIMS_DROPPED.labels(agent, f"critic_{objection.verdict}").inc()
        return objections

    def _describe(self, claim: Claim) -> str:
        """A claim as the critic reads it: the meaning of its value spares the critic the vocabulary."""
        definition = self._groups[claim.group].values[claim.value]
        meaning = f" ({definition})" if definition else ""
        evidence = f' "{claim.evidence}"' if claim.evidence else ""
        return f"{claim.group}: {claim.value}{meaning}{evidence}"

    async def _answer(self, call_llm: LlmCall, name: str, content: Content, priority: int, **more: Any) -> Any:
        """An agent's answer, as its `read` returns it, at the second try if the first is unusable. Raises Rejected."""
        agent = self.agents[name]
        request = agent.build_request(content, self.text_limit_chars, priority, **more)
        completion = await call_llm(request)
        try:
            return _read(agent, completion)
        except UnusableAnswer as unusable:
            if unusable.reason not in RETRIED:
                raise Rejected(name, unusable.reason) from unusable
        try:
            return _read(agent, await call_llm(request.ask_again(completion)))
        except UnusableAnswer as unusable:
            raise Rejected(name, unusable.reason) from unusable

    @cached_property
    def _groups(self) -> dict[str, Group]:
        return {group.name: group for group in self.vocabulary.groups}

    @cached_property
    def _prompt_runs(self) -> frozenset[str]:
        return word_runs(" ".join(agent.system for agent in self.agents.values()))


def _read(agent: Agent, completion: Completion) -> Any:
    """The agent's answer. Raises UnusableAnswer."""
    if completion.rejected:
        raise UnusableAnswer(completion.rejected)
    return agent.read(completion.text)


def _raise_unexpected(outcomes: list[Any]) -> None:
    """Re-raise the first exception that is not a rejection."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Rejected):
            raise outcome
