"""Reasoning on the stream compared with the bare LLM server: the same requests, sent by the pipeline and sent directly.

The pipeline: text records → reasoning (ledger, guard, agent rounds, encoding of profiles) → delivery → SQLite store, in
process. Onboarding runs first and is not timed. The bare server gets the bodies of the pipeline's own requests, independent
of each other, with the same concurrency limit. The two sides alternate; the pipeline starts each run with an empty ledger. A
warm-up run fills the server's prefix cache, so that it favors neither side. The model is tiny, at temperature 0.

If server and pipeline share cores, the pipeline's own work slows the server. The CPU seconds of this process, reported for both
sides, show how much of the difference that explains.
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
from reaseq.declaration import Declaration
from reaseq.knowledge.agents.reasoner import VllmReasoner, build_agent_pipeline
from reaseq.knowledge.llm.budget import TokenLimits
from reaseq.knowledge.llm.endpoint import Endpoint, to_model
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.llm.request import Completion, LlmRequest
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import EARLIEST_TIME_MS, Item
from reaseq.representation.encoder import Encoder
from reaseq.settings import Settings
from streams.delivery.delivery import Delivery
from streams.delivery.stage import BatchPolicy, Stage
from streams.runtime.in_process import InProcessBroker, InProcessRuntime
from streams.stages.onboarding import OnboardingStage
from streams.stages.reasoning import ReasoningStage

ITEMS = 400  # enough that the end of a run, where the server is no longer full, has little weight
RUNS = 2
REASONING_LIMIT_CHARS = 60


@dataclass
class Timed:
    """Wall time, and CPU time of this process."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def timed() -> Iterator[Timed]:
    """Measure the context; the result is filled in at its end."""
    result, wall, cpu = Timed(), time.perf_counter(), time.process_time()
    yield result
    result.wall_s, result.cpu_s = time.perf_counter() - wall, time.process_time() - cpu


class RecordingEndpoint(Endpoint):
    """Records the requests sent through it."""

    requests: list[LlmRequest]

    async def complete(self, request: LlmRequest) -> Completion:
        self.requests.append(request)
        return await super().complete(request)


def run() -> dict[str, Any]:
    """Start a server and measure the share of its throughput that the pipeline reaches."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="reaseq-bench-") as folder:
        settings = Settings(state_dir=Path(folder))
        port = process.free_port()
        llm = settings.knowledge.llm
        llm.base_url, llm.model = f"http://{process.LOOPBACK}:{port}/v1", "tiny"
        llm.reasoning_limit_chars = REASONING_LIMIT_CHARS
        llm.connect_timeout_s = 30.0  # a fully loaded machine may stall a process for seconds
        try:
            with console.status("starting vLLM"):
                start_vllm(Path("var").resolve(), settings.run_dir, "tiny", port)
            return asyncio.run(_measure(settings, console))
        finally:
            process.stop(settings.run_dir, "vllm")


async def _measure(settings: Settings, console: Console) -> dict[str, Any]:
    torch.set_num_threads(settings.worker.threads)
    titles = dict.fromkeys(pq.read_table(ANSWERS, columns=["description"])["description"].to_pylist())
    items = [
        Item(item_id=f"i{number}", title=title, event_time_ms=EARLIEST_TIME_MS)
        for number, title in enumerate(list(titles)[:ITEMS])
    ]
    encoder = Encoder(settings.encoder)
    console.print("warm-up run for the server's prefix cache and grammars")
    warm_up, _ = await _run_pipeline(settings, encoder, items, "warm")
    pipeline_runs, server_runs = list[Timed](), list[Timed]()
    for number in range(RUNS):
        requests, pipeline_run = await _run_pipeline(settings, encoder, items, f"run-{number}")
        server_run = await _run_bare_server(settings, requests)
        console.print(
            f"run {number + 1}, {len(requests)} calls: pipeline {pipeline_run.wall_s:.1f} s, server {server_run.wall_s:.1f} s"
        )
        pipeline_runs.append(pipeline_run)
        server_runs.append(server_run)
    replayed, _ = await _run_pipeline(settings, encoder, items, f"run-{RUNS - 1}")
    replayed_into_empty, _ = await _run_pipeline(settings, encoder, items, f"run-{RUNS - 1}", store="fresh")
    ratios = [
        server_run.wall_s / pipeline_run.wall_s for server_run, pipeline_run in zip(server_runs, pipeline_runs, strict=True)
    ]
    return {
        "items": len(items),
        "calls": len(warm_up),
        "concurrency_limit_calls": settings.knowledge.llm.concurrency_limit_calls,
        "turns": RUNS,
        "items_per_s": round(len(items) / statistics.median(pipeline_run.wall_s for pipeline_run in pipeline_runs), 3),
        "server_items_per_s": round(len(items) / statistics.median(server_run.wall_s for server_run in server_runs), 3),
        "path_s": [round(pipeline_run.wall_s, 2) for pipeline_run in pipeline_runs],
        "path_cpu_s": [round(pipeline_run.cpu_s, 2) for pipeline_run in pipeline_runs],
        "server_s": [round(server_run.wall_s, 2) for server_run in server_runs],
        "server_client_cpu_s": [round(server_run.cpu_s, 2) for server_run in server_runs],
        "share_of_server_throughput": round(statistics.median(ratios), 3),
        "share_of_server_throughput_by_turn": [round(ratio, 3) for ratio in ratios],
        "llm_calls_on_full_replay": len(replayed),
        "llm_calls_on_replay_into_an_empty_store": len(replayed_into_empty),
    }


async def _run_pipeline(
    settings: Settings, encoder: Encoder, items: Sequence[Item], name: str, store: str = "store"
) -> tuple[list[LlmRequest], Timed]:
    """Onboard the items, then reason about them; returns the requests made and the duration of the reasoning."""
    run_settings = settings.model_copy(update={"state_dir": settings.state_dir / name / store}, deep=True)
    vocabulary, knowledge = load_vocabulary(settings.knowledge.vocabulary), settings.knowledge
    run_settings.state_dir.mkdir(parents=True, exist_ok=True)
    repository = FeatureRepository(run_settings)
    repository.apply()
    endpoint = RecordingEndpoint(knowledge.llm)
    endpoint.requests = []
    ledger = Ledger(settings.state_dir / name / "knowledge.db")
    reasoner = VllmReasoner(build_agent_pipeline(vocabulary, knowledge.llm, endpoint.model), endpoint, ledger, TokenLimits())
    policy = BatchPolicy(knowledge.items_per_batch, 0.0, knowledge.batches_in_flight)
    stages: list[Stage] = [
        OnboardingStage(repository, encoder, Declaration(), BatchPolicy(256, 0.0)),
        ReasoningStage(repository, reasoner, encoder, vocabulary.version, policy),
    ]
    broker = InProcessBroker()
    onboarding, reasoning = (
        InProcessRuntime(broker, lambda stage: Delivery(stage, broker, repository, 300.0), [stage]) for stage in stages
    )
    await onboarding.publish(items)
    await onboarding.run_until_idle(flush=True)
    with timed() as duration:
        await reasoning.run_until_idle(flush=True)
    await endpoint.close()
    ledger.close()
    return endpoint.requests, duration


async def _run_bare_server(settings: Settings, requests: Sequence[LlmRequest]) -> Timed:
    """Send the request bodies as fast as the concurrency limit allows; returns the duration."""
    llm = settings.knowledge.llm
    model = to_model(llm)
    semaphore = asyncio.Semaphore(llm.concurrency_limit_calls)
    timeout = aiohttp.ClientTimeout(llm.answer_timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:

        async def send(request: LlmRequest) -> None:
            async with semaphore, session.post(f"{llm.base_url}/chat/completions", json=request.body(model)) as response:
                await response.read()

        with timed() as duration:
            await asyncio.gather(*map(send, requests))
    return duration
