"""ReasoningStage on the stream beside the bare server: the same calls, sent by the whole path and sent all at once.

The path: text records → reasoning (ledger, guard, rounds of agents, encoding of profiles) → delivery → SQLite store, in
process; onboarding has gone before and is not timed. The bare server gets the bodies of the very calls that the path made, all
independent of each other, as many at once as the path may have under way. Both sides take turns, the path each time with an
empty ledger; the server's prefix cache has seen every prompt before the first timed turn, so neither side has an advantage
from it. A tiny model at temperature 0.

Where server and path share cores, the path's own work slows the server: the CPU seconds of this process on both sides say
how much of the difference that is.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow.parquet as pq
import torch
from rich.console import Console

from demo import ANSWERS
from features.repository import FeatureRepository
from infra import process
from infra.vllm.server import start_vllm
from reaseq.knowledge.agents.reasoner import VllmReasoner, build_agent_pipeline
from reaseq.knowledge.llm.budget import TokenLimits
from reaseq.knowledge.llm.call import Completion, LlmRequest
from reaseq.knowledge.llm.endpoint import Endpoint, to_model
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import Item
from reaseq.representation.encoder import Encoder
from reaseq.settings import Settings
from streams.contract.delivery import Delivery
from streams.contract.stage import BatchPolicy, Stage
from streams.runtime.in_process import InProcessBroker, InProcessRuntime
from streams.stages.onboarding import OnboardingStage
from streams.stages.reasoning import ReasoningStage

ITEMS = 400  # few enough to wait for, so many that the last ones, which no longer fill the server, weigh little
TURNS = 2
REASONING_LIMIT_CHARS = 60


@dataclass
class Timed:
    """Seconds that passed, and seconds of CPU that this process took in them."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def timed() -> Iterator[Timed]:
    """Measure the context; the figures are there when it has ended."""
    found, wall, cpu = Timed(), time.perf_counter(), time.process_time()
    yield found
    found.wall_s, found.cpu_s = time.perf_counter() - wall, time.process_time() - cpu


class RecordingEndpoint(Endpoint):
    """Keeps the calls that go through it."""

    calls: list[LlmRequest]

    async def complete(self, call: LlmRequest) -> Completion:
        self.calls.append(call)
        return await super().complete(call)


def run() -> dict[str, Any]:
    """Start a server, take turns, and say what share of its throughput the whole path reaches."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="reaseq-bench-") as folder:
        settings = Settings(state_dir=Path(folder))
        port = process.free_port()
        llm = settings.knowledge.llm
        llm.base_url, llm.model = f"http://{process.LOOPBACK}:{port}/v1", "tiny"
        llm.reasoning_limit_chars = REASONING_LIMIT_CHARS
        llm.connect_timeout_s = 30.0  # a machine that does everything at once may keep a process waiting for seconds
        try:
            with console.status("starting vLLM"):
                start_vllm(Path("var").resolve(), settings.run_dir, "tiny", port)
            return asyncio.run(_measure(settings, console))
        finally:
            process.stop(settings.run_dir, "vllm")


async def _measure(settings: Settings, console: Console) -> dict[str, Any]:
    torch.set_num_threads(settings.worker.threads)
    titles = dict.fromkeys(pq.read_table(ANSWERS, columns=["description"])["description"].to_pylist())
    items = [Item(item_id=f"i{place}", title=title, event_time_ms=1) for place, title in enumerate(list(titles)[:ITEMS])]
    encoder = Encoder(settings.encoder)
    console.print("a first turn, not timed: the server's prefix cache and grammars")
    calls, _ = await _path(settings, encoder, items, "warm")
    paths, servers = list[Timed](), list[Timed]()
    for turn in range(TURNS):
        again, path = await _path(settings, encoder, items, f"turn-{turn}")
        server = await _bare(settings, again)
        console.print(f"turn {turn + 1}: path {path.wall_s:.1f} s, bare server {server.wall_s:.1f} s, {len(again)} calls")
        paths.append(path)
        servers.append(server)
    replayed, _ = await _path(settings, encoder, items, f"turn-{TURNS - 1}")
    afresh, _ = await _path(settings, encoder, items, f"turn-{TURNS - 1}", store="fresh")
    ratios = [server.wall_s / path.wall_s for server, path in zip(servers, paths, strict=True)]
    return {
        "items": len(items),
        "calls": len(calls),
        "concurrency_limit_calls": settings.knowledge.llm.concurrency_limit_calls,
        "turns": TURNS,
        "items_per_s": round(len(items) / statistics.median(path.wall_s for path in paths), 3),
        "server_items_per_s": round(len(items) / statistics.median(server.wall_s for server in servers), 3),
        "path_s": [round(path.wall_s, 2) for path in paths],
        "path_cpu_s": [round(path.cpu_s, 2) for path in paths],
        "server_s": [round(server.wall_s, 2) for server in servers],
        "server_client_cpu_s": [round(server.cpu_s, 2) for server in servers],
        "share_of_server_throughput": round(statistics.median(ratios), 3),
        "share_of_server_throughput_by_turn": [round(ratio, 3) for ratio in ratios],
        "llm_calls_on_full_replay": len(replayed),
        "llm_calls_on_replay_into_an_empty_store": len(afresh),
    }


async def _path(
    settings: Settings, encoder: Encoder, items: Sequence[Item], name: str, store: str = "store"
) -> tuple[list[LlmRequest], Timed]:
    """Onboard the items, then reason about them; returns the calls that were made, and how long the second took."""
    turn = settings.model_copy(update={"state_dir": settings.state_dir / name / store}, deep=True)
    vocabulary, knowledge = load_vocabulary(settings.knowledge.vocabulary), settings.knowledge
    turn.state_dir.mkdir(parents=True, exist_ok=True)
    repository = FeatureRepository(turn)
    repository.apply()
    endpoint = RecordingEndpoint(knowledge.llm)
    endpoint.calls = []
    ledger = Ledger(settings.state_dir / name / "knowledge.db")
    reasoner = VllmReasoner(build_agent_pipeline(vocabulary, knowledge.llm, endpoint.model), endpoint, ledger, TokenLimits())
    waiting = BatchPolicy(knowledge.items_per_batch, 0.0, knowledge.batches_in_flight)
    stages: list[Stage] = [
        OnboardingStage(repository, encoder, BatchPolicy(256, 0.0)),
        ReasoningStage(repository, reasoner, encoder, vocabulary.version, waiting),
    ]
    log = InProcessBroker()
    onboarding, reasoning = (
        InProcessRuntime(log, lambda stage: Delivery(stage, log, repository, 300.0), [stage]) for stage in stages
    )
    await onboarding.publish(items)
    await onboarding.run_until_idle(flush=True)
    with timed() as time_taken:
        await reasoning.run_until_idle(flush=True)
    await endpoint.close()
    ledger.close()
    return endpoint.calls, time_taken


async def _bare(settings: Settings, calls: Sequence[LlmRequest]) -> Timed:
    """Send the calls' bodies as fast as the server takes them; returns how long that took."""
    llm = settings.knowledge.llm
    model = to_model(llm)
    slots = asyncio.Semaphore(llm.concurrency_limit_calls)
    timeout = aiohttp.ClientTimeout(llm.answer_timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:

        async def send(call: LlmRequest) -> None:
            async with slots, session.post(f"{llm.base_url}/chat/completions", json=call.body(model)) as answer:
                await answer.read()

        with timed() as time_taken:
            await asyncio.gather(*map(send, calls))
    return time_taken
