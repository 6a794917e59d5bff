"""One caller who waits for each ranking of 500 candidates: in process and over HTTP, with ONNX Runtime and with eager PyTorch.

The sides take turns call by call, so that they meet the same disturbances:

- `rank`: the ranking as the service calls it, in process. `http`: the same over HTTP, from another process.
- `forward`: the bare forward pass on prepared tensors, on a thread of its own. `raw_read`: the user's bytes from Redis.
- `…_eager`: the same with the eager model in place of ONNX Runtime.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn

from features.repository import FeatureRepository
from reaseq.ranker.engine import Engine, ScoringQuery
from reaseq.records import UserFeatures
from reaseq.settings import Settings
from serving.app import AppState, create_app
from serving.degradation import DegradingRanker, RankingTask
from serving.micro_batching import MicroBatcher
from serving.user_cache import UserCache
from streams.runtime.http_server import BoundedConfig

CALLS = 400  # per side
BATCHES = 8  # requests that fit into a micro-batch
BUDGET_MS = 60_000.0  # so large that the model always ranks


@dataclass(frozen=True)
class Caller:
    """What the caller asks for: the candidates, for one user after the other."""

    users: Sequence[UserFeatures]
    candidates: list[str]
    now_ms: int


def in_process(settings: Settings, engine: Engine, caller: Caller) -> Callable[[int], object]:
    """The ranking as the service calls it; the call's number chooses the user."""
    batcher = MicroBatcher(_ranker(settings, engine, caller).rank, BATCHES * len(caller.candidates), 256)

    def rank(number: int) -> object:
        user_id = caller.users[number % len(caller.users)].user_id
        task = RankingTask(user_id, caller.candidates, caller.now_ms, time.monotonic() + BUDGET_MS / 1000)
        result = batcher.submit(task).result()
        assert result.fallback_level == "fresh" and not result.reasons, result
        return result

    return rank


def bare_forward(engine: Engine, caller: Caller) -> Callable[[int], object]:
    """The forward pass on prepared tensors, first come, first served."""
    table, one_at_a_time = engine.table.snapshot, ThreadPoolExecutor(max_workers=1)
    rows = table.rows(caller.candidates)
    batches = [engine.batch([ScoringQuery(user, rows, caller.now_ms)], table)[0] for user in caller.users]
    return lambda number: one_at_a_time.submit(engine.score_batch, batches[number % len(batches)], table).result()


def measure(
    settings: Settings, engine: Engine, eager: Engine, caller: Caller, raw_read: Callable[[int], object]
) -> dict[str, Any]:
    """The figures of every side."""
    engines = {"": engine, "_eager": eager}
    with ExitStack() as stack:
        ports = [stack.enter_context(_serving(settings, one, caller)) for one in engines.values()]
        call_over_http = stack.enter_context(_http_caller(caller))
        sides: dict[str, Callable[[int], float]] = {"raw_read": _timed(raw_read)}
        for (suffix, one), port in zip(engines.items(), ports, strict=True):
            sides["rank" + suffix] = _timed(in_process(settings, one, caller))
            sides["forward" + suffix] = _timed(bare_forward(one, caller))
            sides["http" + suffix] = lambda number, port=port: call_over_http(port, number)  # type: ignore[misc]
        times_s: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(-len(sides), CALLS):  # the first calls warm up
            for name, call in sides.items():
                took_s = call(number % len(caller.users))
                if number >= 0:
                    times_s[name].append(took_s)
    return _figures(times_s)


def _figures(times_s: dict[str, list[float]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for percent in (50, 99):
        ms = {name: float(np.percentile(seconds, percent)) * 1000 for name, seconds in times_s.items()}
        figures |= {f"{name}_p{percent}_ms": round(value, 3) for name, value in ms.items()}
        figures[f"rank_over_forward_and_read_p{percent}"] = round(ms["rank"] / (ms["forward"] + ms["raw_read"]), 2)
        figures[f"rank_over_eager_p{percent}"] = round(ms["rank"] / ms["rank_eager"], 2)
        figures[f"http_over_rank_p{percent}_ms"] = round(ms["http"] - ms["rank"], 3)
    return figures


def _timed(call: Callable[[int], object]) -> Callable[[int], float]:
    def timed(number: int) -> float:
        started = time.perf_counter()
        call(number)
        return time.perf_counter() - started

    return timed


def _ranker(settings: Settings, engine: Engine, caller: Caller) -> DegradingRanker:
    ranker = DegradingRanker(engine, UserCache(FeatureRepository(settings), len(caller.users), 1.0))
    ranker.warm_up(len(caller.candidates))
    return ranker


@contextmanager
def _serving(settings: Settings, engine: Engine, caller: Caller) -> Iterator[int]:
    """The ranking service on a free port."""
    app = create_app(AppState(_ranker(settings, engine, caller), settings.service))
    config = BoundedConfig(app, "127.0.0.1", 0, settings.http, settings.service.body_limit_bytes)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def _http_caller(caller: Caller) -> Iterator[Callable[[int, int], float]]:
    """A function of a port and the number of a user: the seconds that a request takes another process."""
    bodies = [
        {"user_id": user.user_id, "candidate_ids": caller.candidates, "time_ms": caller.now_ms, "budget_ms": BUDGET_MS}
        for user in caller.users
    ]
    command = [sys.executable, "-m", "benchmarks.http_caller"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        lines_in, lines_out = process.stdin, process.stdout
        lines_in.write(json.dumps(bodies) + "\n")

        def call(port: int, number: int) -> float:
            lines_in.write(f"{port} {number}\n")
            lines_in.flush()
            return float(lines_out.readline())

        yield call
        lines_in.close()
