"""How much console users slow down rankings of 500 candidates over HTTP.

The service runs in its own process, with a real broker and a real Redis, a random catalog, random users and a ranker of the
default size (its weights are random, which costs the same). One caller ranks continuously within the default budget, while

- `alone`: nobody uses the console;
- `explaining`: one person requests one explained ranking after the other;
- `explaining_8`: eight people do so, as many as the service lets wait at once;
- `reading`: one person reads one item card after the other;
- `watching`: one person has left the stream page open.

The sides take turns, and a figure covers all calls of its side. Except in `watching`, people never pause, so the result is an
upper bound.
"""

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from rich.console import Console

from benchmarks.ranking import CANDIDATES, USERS, build_user
from demo import VOCABULARY
from features.repository import FeatureRepository
from infra import local, process
from infra.scratch import settings_on_free_ports, start_empty
from reaseq import float16
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.days import DAY_MS
from reaseq.knowledge.vocabulary import Vocabulary, load_vocabulary
from reaseq.model_artifacts import publish_model
from reaseq.ranker.batch import FEATURES_VERSION
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import engine_files
from reaseq.ranker.item_statistics import fit
from reaseq.ranker.latent import SCORES
from reaseq.ranker.model import Ranker, RankerConfig
from reaseq.records import Claim, ItemFeatures, ProductKnowledge
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import Settings
from serving.app import EXPLANATIONS_LIMIT

ITEMS, DIM, CLAIMS = 5000, 384, 8
HISTORY = 50
NOW_MS = 10_000 * DAY_MS
ITEM_IDS = [f"item-{number}" for number in range(ITEMS)]
TURNS, TURN_S = 4, 9.0  # turns per side, and their length
SETTLE_S = 1.0  # wait before a turn is measured
WATCH_INTERVAL_S = 3.0  # as on the stream page
TIMEOUT_S = 60.0

Visit = Callable[[httpx.Client, int], httpx.Response]


def run() -> dict[str, Any]:
    """Each side's latency, the fallback levels of its rankings, and visits per second."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="reaseq-bench-") as folder:
        settings = settings_on_free_ports(Path(folder))
        settings.service.port = process.free_port()
        try:
            with console.status("starting a broker, Redis and the ranking service"):
                _fill(settings, start_empty(settings))
                local.wait_ready(local.start_ranker(settings))
            with console.status("ranking"):
                return _measure(f"http://127.0.0.1:{settings.service.port}")
        finally:
            local.stop_all(settings)


def _fill(settings: Settings, repository: FeatureRepository) -> None:
    """Write items and users, and publish models for them."""
    vocabulary, generator = load_vocabulary(VOCABULARY), np.random.default_rng(0)
    ids = TrainedIds(ITEM_IDS)
    facts = {"space_id": "bench", "vector_dim": DIM, "vocabulary": vocabulary.version, "features": FEATURES_VERSION}
    torch.manual_seed(0)
    behavior = BehaviorConfig(claims=vocabulary.size, items=len(ids))
    version = publish_model(settings.models_dir, BEHAVIOR, "bench", BehaviorModel(behavior), behavior, ids, facts).version
    config = RankerConfig(claims=vocabulary.size, items=len(ids), history=HISTORY, scores=SCORES)
    model, statistics = Ranker(config), fit([("a user", ITEM_IDS[:100])])
    files = engine_files(model, statistics)
    publish_model(settings.models_dir, RANKER, "bench", model, config, ids, facts, files)
    repository.write([_build_item(item_id, vocabulary, generator) for item_id in ITEM_IDS])
    width = behavior.backbone.width
    repository.write([build_user(ITEM_IDS, number, HISTORY, NOW_MS, version, width, generator) for number in range(USERS)])


def _build_item(item_id: str, vocabulary: Vocabulary, generator: np.random.Generator) -> ItemFeatures:
    groups = generator.choice(len(vocabulary.groups), min(CLAIMS, len(vocabulary.groups)), replace=False)
    chosen = [vocabulary.groups[index] for index in groups]
    claims = tuple(Claim(group.name, str(generator.choice(list(group.values))), 0.9, "bench") for group in chosen)
    vector = generator.normal(size=DIM)
    return ItemFeatures(
        item_id=item_id,
        event_time_ms=1,
        listed_ms=1,
        status="reasoned",
        title=item_id,
        space_id="bench",
        vector=float16.pack(vector / np.linalg.norm(vector)),
        knowledge=ProductKnowledge(vocabulary=vocabulary.version, claims=claims),
    )


def _measure(url: str) -> dict[str, Any]:
    candidates = np.random.default_rng(1).choice(ITEM_IDS, CANDIDATES, replace=False).tolist()

    def explain(http: httpx.Client, number: int) -> httpx.Response:
        return http.post("/v1/explain", json={"user_id": f"user-{number % USERS}", "time_ms": NOW_MS})

    def read(http: httpx.Client, number: int) -> httpx.Response:
        return http.get(f"/v1/items/{candidates[number % CANDIDATES]}")

    def watch(http: httpx.Client, number: int) -> httpx.Response:
        time.sleep(WATCH_INTERVAL_S if number else 0)
        http.get("/v1/stream/history").raise_for_status()
        return http.get("/v1/stream")

    people: dict[str, list[Visit]] = {
        "alone": [],
        "explaining": [explain],
        f"explaining_{EXPLANATIONS_LIMIT}": [explain] * EXPLANATIONS_LIMIT,
        "reading": [read],
        "watching": [watch],
    }
    sides = {name: Side() for name in people}
    with _client(url) as http:
        for _ in range(TURNS):
            for name, side in sides.items():
                with _visiting(url, people[name]) as visits:
                    time.sleep(SETTLE_S)
                    _rank(http, candidates, side, visits)
    shared = {"candidates": CANDIDATES, "history": HISTORY, "items": ITEMS}
    return {**shared, "sides": [{"side": name} | side.figures(sides["alone"]) for name, side in sides.items()]}


@dataclass
class Side:
    """Measurements of one side so far."""

    times_s: list[float] = field(default_factory=list)
    levels: Counter[str] = field(default_factory=Counter)  # fallback levels of the responses
    visits: int = 0
    elapsed_s: float = 0.0

    def figures(self, alone: "Side") -> dict[str, Any]:
        """The side's figures, and their ratios to those of `alone`."""
        figures: dict[str, Any] = {"fallback_levels": self.levels, "visits_per_s": round(self.visits / self.elapsed_s, 2)}
        for percent in (50, 99):
            mine, theirs = (float(np.percentile(side.times_s, percent)) for side in (self, alone))
            figures |= {f"rank_p{percent}_ms": round(mine * 1000, 1), f"over_alone_p{percent}": round(mine / theirs, 2)}
        return figures


def _rank(http: httpx.Client, candidates: list[str], side: Side, visits: list[int]) -> None:
    """Rank for the length of a turn."""
    visits_before, started = len(visits), time.perf_counter()
    for number in count():
        called = time.perf_counter()
        if called - started > TURN_S:
            break
        body = {"user_id": f"user-{number % USERS}", "candidate_ids": candidates, "time_ms": NOW_MS}
        response = http.post("/v1/rank", json=body).raise_for_status()
        side.times_s.append(time.perf_counter() - called)
        side.levels[response.json()["fallback_level"]] += 1
    side.visits += len(visits) - visits_before
    side.elapsed_s += time.perf_counter() - started


@contextmanager
def _visiting(url: str, people: list[Visit]) -> Iterator[list[int]]:
    """Repeat each person's request on a thread of its own; yields a list that grows with each successful request."""
    stop, visits = threading.Event(), list[int]()

    def run_person(visit: Visit) -> None:
        with _client(url) as http:
            for number in count():
                if stop.is_set():
                    return
                if visit(http, number).is_success:
                    visits.append(number)

    threads = [threading.Thread(target=run_person, args=(visit,)) for visit in people]
    for thread in threads:
        thread.start()
    try:
        yield visits
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)
