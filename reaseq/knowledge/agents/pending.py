"""Pending requests: what an item still needs from the LLM, what it would cost, and how to answer it with batch files.

A batch proceeds in rounds, because the critic judges what the other agents drafted: export the pending requests, have them
answered, import the answers, and repeat until none is pending. Files are in the OpenAI batch format, one request per line, so
`vllm run-batch` and hosted batch services accept them as they are.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reaseq.errors import CatalogError
from reaseq.knowledge.agents.agent_pipeline import AgentPipeline, Rejected
from reaseq.knowledge.agents.answers import DraftAnswer
from reaseq.knowledge.agents.prompts import DRAFTING
from reaseq.knowledge.agents.reasoner import build_identity
from reaseq.knowledge.guard import find_faults
from reaseq.knowledge.llm.ledger import Entry, Ledger
from reaseq.knowledge.llm.request import CHARS_PER_TOKEN, Completion, LlmRequest, Model
from reaseq.knowledge.llm.response import read_completion
from reaseq.knowledge.reasoner import ReasoningItem

ENDPOINT = "/v1/chat/completions"

ANSWER_CHARS = 1200  # assumed for agents without past calls
ACCEPTED = "accepted"
FOLLOWING = ("critic", "synthesis", "critic")


@dataclass(frozen=True)
class Agents:
    """The agent pipeline, its model, and the ledger of its answers."""

    pipeline: AgentPipeline
    model: Model
    ledger: Ledger

    @property
    def identity(self) -> str:
        """The reasoner's part of a fingerprint."""
        return build_identity(self.pipeline, self.model)


class _NotInLedger(Exception):
    """The ledger has no answer to a request."""


@dataclass(frozen=True)
class Pending:
    """The requests of an item's next round; if there are none, `rejected` is the reason if the item has no knowledge."""

    requests: list[LlmRequest]
    rejected: str = ""


async def find_pending(agents: Agents, item: ReasoningItem) -> Pending:
    """What an item still needs, by the ledger's answers."""
    requests: list[LlmRequest] = []

    async def call_llm(request: LlmRequest) -> Completion:
        known = agents.ledger.find(request.fingerprint(agents.model))
        if known is None:
            requests.append(request)
            raise _NotInLedger
        return known

    try:
        await agents.pipeline.run(item.content, call_llm)
    except _NotInLedger:
        pass
    except Rejected as rejection:
        return Pending(requests, f"{rejection.agent}: {rejection.reason}")
    return Pending(requests)


@dataclass
class Forecast:
    """What reasoning about items would take. Tokens are estimated from past calls, where there are any."""

    items: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    tokens_in: float = 0.0
    tokens_cached: float = 0.0  # the part of `tokens_in` that the server's prefix cache would save
    tokens_out: float = 0.0


class Forecaster:
    """Estimates the cost of items without making calls."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._costs = {cost.group: cost for cost in agents.ledger.costs("agent")}
        self.total = Forecast()
        self.basis = "estimated from past calls" if self._costs else "a rough guess, as no call has been made yet"

    async def add(self, items: Iterable[ReasoningItem]) -> None:
        """Add items to the total."""
        for item in items:
            await self._add(item)

    async def _add(self, item: ReasoningItem) -> None:
        requests = (await find_pending(self._agents, item)).requests
        if not requests:
            return
        self.total.items += 1
        for request in requests:
            self._count(request.agent, len(request.system) + len(request.user))
        if requests[0].agent in DRAFTING:
            for agent in FOLLOWING:
                self._count(agent, len(self._agents.pipeline.agents[agent].system) + ANSWER_CHARS)

    def _count(self, agent: str, prompt_chars: int) -> None:
        cost = self._costs.get(agent)
        self.total.calls[agent] += 1
        self.total.tokens_in += cost.tokens_in / cost.calls if cost else prompt_chars / CHARS_PER_TOKEN
        self.total.tokens_cached += cost.tokens_cached / cost.calls if cost else 0.0
        self.total.tokens_out += cost.tokens_out / cost.calls if cost else ANSWER_CHARS / CHARS_PER_TOKEN


@dataclass
class BatchExport:
    """What a round asks: requests by agent. `rejected` counts the items that end without knowledge, by agent and reason."""

    requests: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)


async def export_batch(agents: Agents, items: Iterable[ReasoningItem], path: Path) -> BatchExport:
    """Write the next round of pending requests to a file, without duplicates."""
    result = BatchExport()
    written: set[str] = set()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for item in items:
            pending = await find_pending(agents, item)
            if pending.rejected and not pending.requests:
                result.rejected[pending.rejected] += 1
            for request in pending.requests:
                fingerprint = request.fingerprint(agents.model)
                if fingerprint not in written:
                    written.add(fingerprint)
                    result.requests[request.agent] += 1
                    line = {"custom_id": fingerprint, "method": "POST", "url": ENDPOINT, "body": request.body(agents.model)}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return result


@dataclass
class BatchImport:
    """What came of a batch: answers by outcome, `accepted` or the reason why not, and dropped claims by agent and fault."""

    outcomes: Counter[str] = field(default_factory=Counter)
    dropped_claims: Counter[tuple[str, str]] = field(default_factory=Counter)


async def import_batch(agents: Agents, items: Iterable[ReasoningItem], path: Path) -> BatchImport:
    """Enter the answers of a batch into the ledger.

    Only answers to pending requests are entered; others are ignored. A request that the service did not answer stays pending.
    Raises CatalogError, which names the line, if the file is not the output of a batch service.
    """
    responses = _read_responses(path)
    result = BatchImport()
    entries: dict[str, Entry] = {}
    seen: set[str] = set()
    for item in items:
        for request in (await find_pending(agents, item)).requests:
            fingerprint = request.fingerprint(agents.model)
            response = responses.get(fingerprint)
            if response is None or fingerprint in seen:
                continue
            seen.add(fingerprint)
            completion, outcome = _read_response(response, request)
            if completion:
                completion = agents.pipeline.judge(request, completion)
                outcome = completion.rejected
                dropped = [] if outcome else _find_dropped(agents.pipeline, request, completion, item)
                result.dropped_claims.update((request.agent, fault) for fault in dropped)
                origin = (item.item_id, item.seller_id, item.content.hash)
                entries[fingerprint] = Entry(fingerprint, request.agent, agents.model.identity, *origin, completion, "batch")
            result.outcomes[outcome or ACCEPTED] += 1
    result.outcomes["not_pending"] = len(responses.keys() - seen)
    result.outcomes = +result.outcomes
    agents.ledger.enter(list(entries.values()))
    return result


def _find_dropped(pipeline: AgentPipeline, request: LlmRequest, completion: Completion, item: ReasoningItem) -> list[str]:
    """Why claims of a draft will be dropped."""
    answer = pipeline.agents[request.agent].read(completion.text)
    if not isinstance(answer, DraftAnswer):
        return []
    faults = find_faults(pipeline.read_claims(answer), pipeline.vocabulary, item.content, quoting=True)
    return [fault for fault in faults if fault]


def _read_response(response: dict[str, Any], request: LlmRequest) -> tuple[Completion | None, str]:
    """The completion in a line of a batch's output, or None and the reason why the request has no answer yet."""
    answer, error = response.get("response") or {}, response.get("error") or {}
    status = answer.get("status_code", 200)
    if error or not answer or status != 200:
        return None, f"unanswered_{error.get('code') or f'http_{status}' if isinstance(error, dict) else 'error'}"
    completion = read_completion(answer.get("body"), request)
    return completion, "" if completion else "unanswered_garbage"


def _read_responses(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a batch's output by custom_id. Blank lines and a byte-order mark mean nothing."""
    responses = {}
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                response = json.loads(line)
                responses[str(response["custom_id"])] = response
            except (ValueError, LookupError, TypeError) as error:
                raise CatalogError(f"{path}, line {number}: not the output of a batch service: {error!r}") from error
    return responses
