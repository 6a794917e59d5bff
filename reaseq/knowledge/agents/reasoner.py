"""The vLLM reasoner: runs the agent pipeline on an OpenAI-compatible endpoint, with the ledger and the token budgets."""

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from reaseq.errors import EndpointUnavailable
from reaseq.knowledge import metrics
from reaseq.knowledge.agents.agent_pipeline import AgentPipeline, Rejected
from reaseq.knowledge.agents.prompts import DRAFTING, make_agents, prompt_version
from reaseq.knowledge.llm.budget import TokenBudget, TokenLimits
from reaseq.knowledge.llm.endpoint import Endpoint
from reaseq.knowledge.llm.ledger import Entry, Ledger
from reaseq.knowledge.llm.ledger_thread import LedgerThread
from reaseq.knowledge.llm.request import Completion, LlmCall, LlmRequest, Model
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim, ProductKnowledge
from reaseq.settings import LlmSettings

log = structlog.get_logger()

NOT_CACHED = {"no_answer"}  # rejections that are not kept in the ledger, since a later call may succeed


def build_agent_pipeline(vocabulary: Vocabulary, settings: LlmSettings, model: Model) -> AgentPipeline:
    """The agent pipeline for a vocabulary, with the limits of the settings."""
    agents = make_agents(vocabulary, settings.reasoning_limit_chars)
    return AgentPipeline(agents, vocabulary, f"llm:{model.name}", settings.text_limit_chars)


def build_identity(pipeline: AgentPipeline, model: Model) -> str:
    """Names what the answers depend on besides an item's content: prompts, vocabulary, model and decoding."""
    return f"llm:{model.identity}:{prompt_version(dict(pipeline.agents))}"


class BudgetExhausted(Exception):
    """No call may be made for the item; `budget` names the limit that was reached."""

    def __init__(self, budget: str) -> None:
        super().__init__(budget)
        self.budget = budget


@dataclass(frozen=True)
class ReasoningTask:
    """An item, the drafting agents to run for it, and the claims of other reasoners that cover the remaining agents."""

    item: ReasoningItem
    drafting: Collection[str] = DRAFTING
    given_claims: tuple[Claim, ...] = ()


class VllmReasoner:
    """Reasons about many items concurrently; the endpoint limits the number of calls in flight."""

    def __init__(self, pipeline: AgentPipeline, endpoint: Endpoint, ledger: Ledger, limits: TokenLimits) -> None:
        self._pipeline = pipeline
        self._endpoint = endpoint
        self._ledger = LedgerThread(ledger)
        self._budget = TokenBudget(limits, self._ledger)
        self._in_flight: dict[str, asyncio.Future[Completion]] = {}  # by fingerprint
        self.identity = build_identity(pipeline, endpoint.model)

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Knowledge about each item; None if its answers were rejected or a budget is exhausted.

        Raises EndpointUnavailable or LedgerUnavailable after all items have been tried. Answers received by then are in the
        ledger.
        """
        return await self.reason_tasks([ReasoningTask(item) for item in items])

    async def reason_tasks(self, tasks: Sequence[ReasoningTask]) -> Answers:
        """Like `reason`, with a choice of agents per item."""
        outcomes = await asyncio.gather(*map(self._reason_task, tasks), return_exceptions=True)
        answers: Answers = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            answers.append(outcome)
        return answers

    async def _reason_task(self, task: ReasoningTask) -> ProductKnowledge | None:
        item = task.item
        try:
            knowledge = await self._pipeline.run(item.content, self._make_call_llm(item), task.drafting, task.given_claims)
        except Rejected as rejection:
            log.info("reasoning_rejected", item_id=item.item_id, agent=rejection.agent, reason=rejection.reason)
            return None
        except BudgetExhausted as exhausted:
            metrics.BUDGET_REJECTIONS.labels(exhausted.budget).inc()
            return None
        return knowledge if knowledge.claims else None

    def _make_call_llm(self, item: ReasoningItem) -> LlmCall:
        async def call_llm(request: LlmRequest) -> Completion:
            fingerprint = request.fingerprint(self._endpoint.model)
            while in_flight := self._in_flight.get(fingerprint):  # the same request for another item with equal text
                try:
                    return await asyncio.shield(in_flight)
                except BudgetExhausted:
                    pass  # that of the other item
            return await self._share(fingerprint, self._answer(request, fingerprint, item))

        return call_llm

    async def _share(self, fingerprint: str, answer: Awaitable[Completion]) -> Completion:
        """Await an answer, which equal requests share meanwhile."""
        result: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._in_flight[fingerprint] = result
        try:
            completion = await answer
            result.set_result(completion)
            return completion
        except BaseException as error:
            result.set_exception(error if isinstance(error, Exception) else EndpointUnavailable("the call was cancelled"))
            result.exception()  # marks it as retrieved, in case no other item waits for it
            raise
        finally:
            del self._in_flight[fingerprint]

    async def _answer(self, request: LlmRequest, fingerprint: str, item: ReasoningItem) -> Completion:
        """The answer in the ledger or, within the budgets, the endpoint's."""
        known = await self._ledger.find(fingerprint)
        if known:
            metrics.CALLS.labels(request.agent, "known").inc()
            return known
        if exhausted := await self._budget.exhausted(item):
            raise BudgetExhausted(exhausted)
        with metrics.IN_FLIGHT.track_inprogress():
            completion = self._pipeline.judge(request, await self._endpoint.complete(request))
        await self._record(request, fingerprint, item, completion)
        return completion

    async def _record(self, request: LlmRequest, fingerprint: str, item: ReasoningItem, completion: Completion) -> None:
        model = self._endpoint.model.identity
        entry = Entry(fingerprint, request.agent, model, item.item_id, item.seller_id, item.content.hash, completion)
        if completion.rejected not in NOT_CACHED:
            await self._ledger.enter(entry)
        usage = completion.usage
        self._budget.spend(item, usage.tokens_in + usage.tokens_out)
        metrics.CALLS.labels(request.agent, completion.rejected or "answered").inc()
        metrics.SECONDS.labels(request.agent).observe(usage.seconds)
        for kind, count in (("in", usage.tokens_in), ("cached", usage.tokens_cached), ("out", usage.tokens_out)):
            metrics.TOKENS.labels(request.agent, kind).inc(count)
