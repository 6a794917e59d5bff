"""How fast behaviors are inferred: our schedule beside the reference schedule of one token a step, at equal recall.

A small model is trained on Online Retail before September 2011 and asked about baskets after it, 50 behaviors each, through
the same `BehaviorInference` that serves the stream. Every configuration is timed in turns with the reference, and figures are
medians over the turns.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import Progress

from demo import ANSWERS, ORDER_LINES
from evaluation.experiments import retail_experiment
from evaluation.instances import RankingInstance, build_instances
from reaseq.behavior import training
from reaseq.behavior.history import InferenceRequest
from reaseq.behavior.inference import BehaviorInference
from reaseq.behavior.model import BehaviorModel
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import ItemTable, Snapshot
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import SamplerSettings, Settings
from reaseq.training_loop import count_steps

BEHAVIORS = 50
USERS = 256
EPOCHS = 4
TURNS = 3
OURS = SamplerSettings(behaviors=BEHAVIORS, steps=1, batch_users=16)
REFERENCE = SamplerSettings(behaviors=BEHAVIORS, steps=BEHAVIORS, batch_users=16)
STEPS, BATCHES, COUNTS = (1, 2, 4, 8), (1, 4, 16, 64), (16, 50)


@dataclass(frozen=True)
class Bound:
    """A fixed snapshot in the place of an item table."""

    snapshot: Snapshot


@dataclass(frozen=True)
class BehaviorBench:
    """A trained model and the users it is asked about."""

    model: BehaviorModel
    ids: TrainedIds
    table: ItemTable
    instances: Sequence[RankingInstance]

    def inference(self, settings: SamplerSettings) -> BehaviorInference:
        """The model with a way of sampling."""
        return BehaviorInference(self.model, self.ids, "bench", self.table, settings)

    def users_per_s(self, inference: BehaviorInference, users: int) -> float:
        """Questions answered per second, one pass over the first `users`."""
        requests = [_question(instance) for instance in self.instances[:users]]
        started = time.perf_counter()
        inference.infer(requests)
        return users / (time.perf_counter() - started)

    def recall(self, settings: SamplerSettings) -> float:
        """Share of each user's new behaviors that were inferred, the mean over users."""
        answers = self.inference(settings).infer([_question(instance) for instance in self.instances])
        ids = self.table.snapshot.ids
        hits = [
            len({ids[row] for row in instance.targets} & set(answer.item_ids)) / len(instance.targets)
            for instance, answer in zip(self.instances, answers, strict=True)
        ]
        return statistics.fmean(hits)


def run() -> dict[str, Any]:
    """All figures; see the module."""
    torch.set_num_threads(1)  # as a stream worker does
    console = Console()
    bench = _prepared(console)
    ours, reference = bench.inference(OURS), bench.inference(REFERENCE)
    few = USERS // 8  # of the slow reference
    for inference in (ours, reference):
        bench.users_per_s(inference, OURS.batch_users)  # the catalog is read once
    turns = [(bench.users_per_s(ours, USERS), bench.users_per_s(reference, few)) for _ in range(TURNS)]
    sampler, slow = (statistics.median(of) for of in zip(*turns, strict=True))
    table = []
    for steps, batch, count in product(STEPS, BATCHES, COUNTS):
        settings = replace_settings(steps=steps, batch_users=batch, behaviors=count)
        inference = bench.inference(settings)
        bench.users_per_s(inference, batch)
        rate = statistics.median(bench.users_per_s(inference, max(batch, few)) for _ in range(TURNS))
        table.append({"steps": steps, "batch_users": batch, "behaviors": count, "users_per_s": round(rate, 1)})
    recalls = {steps: round(bench.recall(replace_settings(steps=steps)), 4) for steps in (*STEPS, 16)}
    early = replace_settings(steps=16, tolerance=0.02)
    return {
        "sampler_users_per_s": round(sampler, 1),
        "reference_users_per_s": round(slow, 1),
        "speedup": round(sampler / slow, 2),
        "recall_50": recalls[1],
        "reference_recall_50": round(bench.recall(REFERENCE), 4),
        "recall_50_by_steps": recalls,
        "recall_50_early_stop": round(bench.recall(early), 4),
        "early_stop_users_per_s": round(bench.users_per_s(bench.inference(early), few), 1),
        "recall_50_infilled_25": round(bench.recall(replace_settings(infilled_behaviors=25)), 4),
        "recall_50_four_samples": round(bench.recall(replace_settings(samples=4, temperature=0.5)), 4),
        "by_steps_batch_and_count": table,
        "users": USERS,
        "threads": 1,
        "items": len(bench.table.snapshot) - 1,
    }


def replace_settings(**changes: Any) -> SamplerSettings:
    """Our settings with some changed."""
    return OURS.model_copy(update=changes)


def _prepared(console: Console) -> BehaviorBench:
    settings = Settings()
    with console.status("reading and encoding Online Retail"):
        experiment = retail_experiment(ORDER_LINES, ANSWERS, Encoder(settings.encoder), settings.state_dir / "evaluation")
    data, ids = training.build_training_data(
        experiment.log.between(0, experiment.cuts[-1]), experiment.log.table, experiment.config, 0.05
    )
    plan = replace(experiment.plan, epochs=EPOCHS)
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=count_steps(len(data.train), plan))
        config = replace(experiment.config, items=len(ids))
        model, _ = training.train(data, config, plan, progress=lambda steps, loss: progress.advance(task, steps))
    instances = build_instances(experiment.log, *experiment.test)
    table = cast(ItemTable, Bound(experiment.log.table))
    return BehaviorBench(model, ids, table, instances[:: len(instances) // USERS][:USERS])


def _question(instance: RankingInstance) -> InferenceRequest:
    return InferenceRequest(instance.basket.history, instance.basket.time_ms, 1)
