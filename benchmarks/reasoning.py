"""Reasoning on the stream beside the bare server: the same calls, sent by the whole path and sent all at once.

The path: item messages → onboarding → reasoning (ledger, guard, rounds of agents) → delivery → SQLite store, in process.
The bare server gets the bodies of the very calls that the path made, all independent of each other, as many at once as the
path may have under way. Both sides take turns, each time with an answer-less ledger; the server's prefix cache has seen
every prompt before the first timed turn, so neither side has an advantage from it. A tiny model at temperature 0.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
from rich.console import Console

import features  # noqa: F401  before anything that brings prometheus_client
from demo import ANSWERS
from features.repository import FeatureRepository
from infra import process
from infra.vllm.server import start_vllm
from reaseq.knowledge.agents.reasoner import VllmReasoner, make_panel
from reaseq.knowledge.llm.budget import Budgets
from reaseq.knowledge.llm.call import Call, Completion
from reaseq.knowledge.llm.endpoint import Endpoint
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.vocabulary import vocabulary_in_force
from reaseq.records import Item
from reaseq.representation.encoder import Encoder
from reaseq.settings import Settings
from streams.delivery import Delivery
from streams.in_process import InProcessLog, InProcessRuntime
from streams.stage import BatchPolicy, Stage
from streams.stages.onboarding import Onboarding
from streams.stages.reasoning import Reasoning

ITEMS = 400
TURNS = 3
REASONING_LIMIT_CHARS = 60


class RecordingEndpoint(Endpoint):
    """Keeps the calls that go through it."""

    calls: list[Call]

    async def complete(self, call: Call) -> Completion:
        self.calls.append(call)
        return await super().complete(call)


def run() -> dict[str, Any]:
    """Start a server, take turns, and say what share of its throughput the whole path reaches."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="reaseq-bench-") as folder:
        state = Path(folder)
        settings = Settings(state_dir=state)
        port = process.free_port()
        llm = settings.knowledge.llm
        llm.base_url, llm.model = f"http://{process.LOOPBACK}:{port}/v1", "tiny"
        llm.reasoning_limit_chars = REASONING_LIMIT_CHARS
        try:
            with console.status("starting vLLM"):
                start_vllm(Path("var").resolve(), settings.run_dir, "tiny", port)
            return asyncio.run(_measure(settings, console))
        finally:
            process.stop(settings.run_dir, "vllm")


async def _measure(settings: Settings, console: Console) -> dict[str, Any]:
    titles = dict.fromkeys(pq.read_table(ANSWERS, columns=["description"])["description"].to_pylist())
    items = [Item(item_id=f"i{place}", title=title, event_time_ms=1) for place, title in enumerate(list(titles)[:ITEMS])]
    encoder = Encoder(settings.encoder)
    console.print("a first turn, not timed: the server's prefix cache and grammars")
    calls = await _path(settings, encoder, items, "warm")
    path_s, server_s = [], []
    for turn in range(TURNS):
        started = time.perf_counter()
        again = await _path(settings, encoder, items, f"turn-{turn}")
        path_s.append(time.perf_counter() - started)
        started = time.perf_counter()
        await _bare(settings, again)
        server_s.append(time.perf_counter() - started)
        console.print(
            f"turn {turn + 1} of {TURNS}: path {path_s[-1]:.1f} s, bare server {server_s[-1]:.1f} s, {len(again)} calls"
        )
    replayed = await _path(settings, encoder, items, f"turn-{TURNS - 1}")
    afresh = await _path(settings, encoder, items, f"turn-{TURNS - 1}", store="fresh")
    ratios = [server / path for server, path in zip(server_s, path_s, strict=True)]
    return {
        "items": len(items),
        "calls": len(calls),
        "concurrency_limit_calls": settings.knowledge.llm.concurrency_limit_calls,
        "turns": TURNS,
        "items_per_s": round(len(items) / statistics.median(path_s), 3),
        "server_items_per_s": round(len(items) / statistics.median(server_s), 3),
        "path_s": [round(seconds, 2) for seconds in path_s],
        "server_s": [round(seconds, 2) for seconds in server_s],
        "share_of_server_throughput": round(statistics.median(ratios), 3),
        "share_of_server_throughput_by_turn": [round(ratio, 3) for ratio in ratios],
        "llm_calls_on_full_replay": len(replayed),
        "llm_calls_on_replay_into_an_empty_store": len(afresh),
    }


async def _path(settings: Settings, encoder: Encoder, items: Sequence[Item], name: str, store: str = "store") -> list[Call]:
    """Onboard and reason about the items; returns the calls that were made."""
    turn = settings.model_copy(update={"state_dir": settings.state_dir / name / store}, deep=True)
    vocabulary, knowledge = vocabulary_in_force(), settings.knowledge
    turn.state_dir.mkdir(parents=True, exist_ok=True)
    repository = FeatureRepository(turn)
    repository.apply()
    endpoint = RecordingEndpoint(knowledge.llm)
    endpoint.calls = []
    ledger = Ledger(settings.state_dir / name / "knowledge.db")
    reasoner = VllmReasoner(make_panel(vocabulary, knowledge.llm, endpoint.model), endpoint, ledger, Budgets())
    batch = BatchPolicy(256, 0.0)
    waiting = BatchPolicy(knowledge.items_per_batch, 0.0, knowledge.batches_in_flight)
    stages: list[Stage] = [
        Onboarding(repository, encoder, batch),
        Reasoning(repository, reasoner, encoder, vocabulary.version, waiting),
    ]
    log = InProcessLog()
    runtime = InProcessRuntime(log, lambda stage: Delivery(stage, log, repository, 300.0), stages)
    await runtime.publish(items)
    await runtime.run_until_idle(flush=True)
    await endpoint.close()
    ledger.close()
    return endpoint.calls


async def _bare(settings: Settings, calls: Sequence[Call]) -> None:
    """Send the calls' bodies as fast as the server takes them."""
    llm = settings.knowledge.llm
    model = Endpoint(llm).model
    slots = asyncio.Semaphore(llm.concurrency_limit_calls)
    limits = httpx.Limits(max_connections=llm.concurrency_limit_calls)
    async with httpx.AsyncClient(timeout=llm.answer_timeout_s, limits=limits) as client:

        async def send(call: Call) -> None:
            async with slots:
                answer = await client.post(f"{llm.base_url}/chat/completions", json=call.body(model))
                answer.raise_for_status()
                await answer.aread()

        await asyncio.gather(*map(send, calls))
