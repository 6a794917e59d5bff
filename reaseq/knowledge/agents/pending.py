"""What has not been asked yet: the calls that an item still needs, what they would cost, and their way through batch files.

A batch goes round by round, since the critic judges what the others drafted: export, have it answered, import, export again,
until no call is missing. A file is in the OpenAI batch format, one request a line, so `vllm run-batch` or any hosted batch
service takes it as it is.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from reaseq.errors import CatalogError
from reaseq.knowledge.agents.agent_pipeline import AgentPipeline, Rejected
from reaseq.knowledge.agents.answers import parse
from reaseq.knowledge.agents.prompts import DRAFTING
from reaseq.knowledge.agents.reasoner import build_identity
from reaseq.knowledge.llm.call import Completion, LlmRequest, Model
from reaseq.knowledge.llm.endpoint import parse_completion
from reaseq.knowledge.llm.ledger import Entry, Ledger
from reaseq.knowledge.reasoner import ReasoningItem

ENDPOINT = "/v1/chat/completions"
CHARS_PER_TOKEN = 4.0  # where nothing was measured yet
ANSWER_CHARS = 1200
FOLLOWING = ("critic", "synthesis")


@dataclass(frozen=True)
class Agents:
    """The agents, the model that speaks for them, and what was asked of them before."""

    pipeline: AgentPipeline
    model: Model
    ledger: Ledger

    @property
    def identity(self) -> str:
        """What a fingerprint says of them."""
        return build_identity(self.pipeline, self.model)


class _NotAsked(Exception):
    """The ledger has no answer to a call."""


async def pending_calls(agents: Agents, item: ReasoningItem) -> list[LlmRequest]:
    """The calls of the next round for an item: none where everything it needs has been answered."""
    missing: list[LlmRequest] = []

    async def ask(call: LlmRequest) -> Completion:
        known = agents.ledger.find(call.fingerprint(agents.model))
        if known is None:
            missing.append(call)
            raise _NotAsked
        return known

    try:
        await agents.pipeline.run(item.content, ask)
    except (Rejected, _NotAsked):
        pass
    return missing


@dataclass
class Forecast:
    """What reasoning about items would take. Tokens are estimates: by what such calls took before, where any was made."""

    items: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    tokens_in: float = 0.0
    tokens_cached: float = 0.0  # of `tokens_in`, those that a server's prefix cache would save
    tokens_out: float = 0.0


class Forecaster:
    """Adds up what items would cost before anything is asked."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._past = {cost.group: cost for cost in agents.ledger.costs("agent")}
        self.total = Forecast()
        self.basis = "as such calls took before" if self._past else "a rough guess: no call was ever made"

    async def add(self, items: Iterable[ReasoningItem]) -> None:
        """Count items."""
        for item in items:
            await self._add(item)

    async def _add(self, item: ReasoningItem) -> None:
        calls = await pending_calls(self._agents, item)
        if not calls:
            return
        self.total.items += 1
        for call in calls:
            self._count(call.agent, len(call.system) + len(call.user))
        if calls[0].agent in DRAFTING:
            for agent in FOLLOWING:
                self._count(agent, len(self._agents.pipeline.agents[agent].system) + ANSWER_CHARS)

    def _count(self, agent: str, prompt_chars: int) -> None:
        past = self._past.get(agent)
        self.total.calls[agent] += 1
        self.total.tokens_in += past.tokens_in / past.calls if past else prompt_chars / CHARS_PER_TOKEN
        self.total.tokens_cached += past.tokens_cached / past.calls if past else 0.0
        self.total.tokens_out += past.tokens_out / past.calls if past else ANSWER_CHARS / CHARS_PER_TOKEN


async def export_batch(agents: Agents, items: Iterable[ReasoningItem], path: Path) -> Counter[str]:
    """Write the pending calls of the next round to a file; returns how many each agent has. Equal calls are written once."""
    counts: Counter[str] = Counter()
    written: set[str] = set()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for item in items:
            for call in await pending_calls(agents, item):
                fingerprint = call.fingerprint(agents.model)
                if fingerprint not in written:
                    written.add(fingerprint)
                    counts[call.agent] += 1
                    request = {"custom_id": fingerprint, "method": "POST", "url": ENDPOINT, "body": call.body(agents.model)}
                    file.write(json.dumps(request, ensure_ascii=False) + "\n")
    return counts


async def import_batch(agents: Agents, items: Iterable[ReasoningItem], path: Path) -> Counter[str]:
    """Take the answers of a batch into the ledger; returns how many were accepted, and how many rejected for which reason.

    An answer counts only where its item still asks for it: whatever else stands in the file changes nothing. Raises
    CatalogError, which names the line, where the file is not what a batch service writes.
    """
    answers = _read_answers(path)
    outcomes: Counter[str] = Counter()
    entries: dict[str, Entry] = {}
    for item in items:
        for call in await pending_calls(agents, item):
            fingerprint = call.fingerprint(agents.model)
            completion = answers.get(fingerprint)
            if completion and fingerprint not in entries:
                rejected = completion.rejected or parse(agents.pipeline.agents[call.agent].answer, completion.text)[1]
                outcomes[rejected or "accepted"] += 1
                origin = (item.item_id, item.seller_id, item.content.hash)
                entries[fingerprint] = Entry(fingerprint, call.agent, agents.model.identity, *origin, completion, "batch")
    outcomes["not_asked"] = len(answers.keys() - entries.keys())
    agents.ledger.enter(list(entries.values()))
    return +outcomes


def _read_answers(path: Path) -> dict[str, Completion]:
    answers = {}
    with path.open() as file:
        for number, line in enumerate(file, start=1):
            try:
                answer = json.loads(line)
                fingerprint, response = answer["custom_id"], answer.get("response")
                if answer.get("error") or not response or response["status_code"] != 200:
                    continue  # not answered: the next export asks again
                answers[str(fingerprint)] = parse_completion(response["body"])
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise CatalogError(f"{path}, line {number}: no answer of a batch: {error!r}") from error
    return answers
