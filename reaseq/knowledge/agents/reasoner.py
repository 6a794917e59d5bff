"""The vLLM reasoner: the pipeline of agents before an OpenAI-compatible endpoint, each call made once and paid for knowingly."""

import asyncio
from collections.abc import Collection, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from reaseq.errors import EndpointUnavailable
from reaseq.knowledge import metrics
from reaseq.knowledge.agents.agent_pipeline import AgentPipeline, LlmCall, Rejected
from reaseq.knowledge.agents.prompts import DRAFTING, make_agents, version
from reaseq.knowledge.llm.budget import TokenBudget, TokenLimits
from reaseq.knowledge.llm.call import Completion, LlmRequest, Model
from reaseq.knowledge.llm.endpoint import Endpoint
from reaseq.knowledge.llm.ledger import Entry, Ledger
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim, ProductKnowledge
from reaseq.settings import LlmSettings

log = structlog.get_logger()

NOT_KEPT = {"no_answer"}  # says nothing about the call: the next time it may be answered


def build_agent_pipeline(vocabulary: Vocabulary, settings: LlmSettings, model: Model) -> AgentPipeline:
    """The agents for a vocabulary, as the settings bound them."""
    agents = make_agents(vocabulary, settings.reasoning_limit_chars)
    return AgentPipeline(agents, vocabulary, f"llm:{model.name}", settings.text_limit_chars)


def build_identity(pipeline: AgentPipeline, model: Model) -> str:
    """What the answers depend on beside an item's content: prompts, vocabulary, model and decoding."""
    return f"llm:{model.identity}:{version(dict(pipeline.agents))}"


class BudgetExhausted(Exception):
    """No call may be made for the item; `budget` says which limit was reached."""

    def __init__(self, budget: str) -> None:
        super().__init__(budget)
        self.budget = budget


class VllmReasoner:
    """Reasons about many items at once; the endpoint bounds how many calls are under way."""

    def __init__(self, pipeline: AgentPipeline, endpoint: Endpoint, ledger: Ledger, budgets: TokenLimits) -> None:
        self._pipeline = pipeline
        self._endpoint = endpoint
        self._ledger = ledger
        self._budget = TokenBudget(budgets, ledger)
        self._under_way: dict[str, asyncio.Future[Completion]] = {}
        self.identity = build_identity(pipeline, endpoint.model)

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Knowledge of each item; None where every answer was rejected or a budget is used up.

        Raises EndpointUnavailable, when all that can be answered has been: what was is in the ledger.
        """
        return await self.reason_in_part([(item, DRAFTING, ()) for item in items])

    async def reason_in_part(self, asked: Sequence[tuple[ReasoningItem, Collection[str], tuple[Claim, ...]]]) -> Answers:
        """The same, where some drafting agents need not be asked because others have made their claims."""
        outcomes = await asyncio.gather(*(self._one(*one) for one in asked), return_exceptions=True)
        answers: Answers = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            answers.append(outcome)
        return answers

    async def _one(self, item: ReasoningItem, drafting: Collection[str], given: tuple[Claim, ...]) -> ProductKnowledge | None:
        try:
            knowledge = await self._pipeline.run(item.content, self._ask_for(item), drafting, given)
        except Rejected as rejection:
            log.info("reasoning_rejected", item_id=item.item_id, agent=rejection.agent, reason=rejection.reason)
            return None
        except BudgetExhausted as exhausted:
            metrics.BUDGET_REJECTIONS.labels(exhausted.budget).inc()
            return None
        return knowledge if knowledge.claims else None

    def _ask_for(self, item: ReasoningItem) -> LlmCall:
        async def ask(call: LlmRequest) -> Completion:
            fingerprint = call.fingerprint(self._endpoint.model)
            known = self._ledger.find(fingerprint)
            if known:
                metrics.CALLS.labels(call.agent, "known").inc()
                return known
            if fingerprint in self._under_way:  # another item with the same text asks just now
                return await asyncio.shield(self._under_way[fingerprint])
            return await self._make(call, fingerprint, item)

        return ask

    async def _make(self, call: LlmRequest, fingerprint: str, item: ReasoningItem) -> Completion:
        if exhausted := self._budget.exhausted(item):
            raise BudgetExhausted(exhausted)
        answered: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._under_way[fingerprint] = answered
        try:
            with metrics.IN_FLIGHT.track_inprogress():
                completion = await self._endpoint.complete(call)
            self._enter(call, fingerprint, item, completion)
            answered.set_result(completion)
            return completion
        except BaseException as error:
            answered.set_exception(error if isinstance(error, Exception) else EndpointUnavailable("the call was given up"))
            answered.exception()  # whoever waits raises it; if nobody does, it has been seen here
            raise
        finally:
            del self._under_way[fingerprint]

    def _enter(self, call: LlmRequest, fingerprint: str, item: ReasoningItem, completion: Completion) -> None:
        model = self._endpoint.model.identity
        entry = Entry(fingerprint, call.agent, model, item.item_id, item.seller_id, item.content.hash, completion)
        if completion.rejected not in NOT_KEPT:
            self._ledger.enter([entry])
        usage = completion.usage
        self._budget.spend(item, usage.tokens_in + usage.tokens_out)
        metrics.CALLS.labels(call.agent, completion.rejected or "answered").inc()
        metrics.SECONDS.labels(call.agent).observe(usage.seconds)
        for kind, count in (("in", usage.tokens_in), ("cached", usage.tokens_cached), ("out", usage.tokens_out)):
            metrics.TOKENS.labels(call.agent, kind).inc(count)
