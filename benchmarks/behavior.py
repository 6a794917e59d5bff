"""Throughput of behavior inference: our sampling schedule and the reference schedule of one token per step, at equal recall.

A small model is trained on Online Retail before September 2011 and infers 50 behaviors for each basket after it, through
the same `BehaviorInference` that serves the stream. The two schedules are timed in alternation, and rates are medians over the
rounds.
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
from evaluation.experiments.online_retail import build_experiment
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
SLOW_USERS = USERS // 8  # users per round of the slow reference schedule
EPOCHS = 4
ROUNDS = 3
HELD_OUT_SHARE = 0.05
OURS = SamplerSettings(behaviors=BEHAVIORS, steps=1, batch_users=16)
REFERENCE = SamplerSettings(behaviors=BEHAVIORS, steps=BEHAVIORS, batch_users=16)
STEPS, BATCHES, COUNTS = (1, 2, 4, 8), (1, 4, 16, 64), (16, 50)


@dataclass(frozen=True)
class FixedItemTable:
    """Stands in for an item table whose snapshot never changes."""

    snapshot: Snapshot


@dataclass(frozen=True)
class BehaviorBench:
    """A trained model and the instances whose users it infers behaviors for."""

    model: BehaviorModel
    ids: TrainedIds
    table: ItemTable
    instances: Sequence[RankingInstance]

    def build_inference(self, settings: SamplerSettings) -> BehaviorInference:
        """An inference with the bench's model and these sampler settings."""
        return BehaviorInference(self.model, self.ids, "bench", self.table, settings)

    def measure_users_per_s(self, inference: BehaviorInference, users: int) -> float:
        """Users inferred for per second, over one pass through the first `users`."""
        requests = [_to_request(instance) for instance in self.instances[:users]]
        started = time.perf_counter()
        inference.infer(requests)
        return users / (time.perf_counter() - started)

    def measure_recall(self, settings: SamplerSettings) -> float:
        """Share of each user's new items that were inferred, the mean over users."""
        answers = self.build_inference(settings).infer([_to_request(instance) for instance in self.instances])
        ids = self.table.snapshot.ids
        hits = [
            len({ids[row] for row in instance.targets} & set(answer.item_ids)) / len(instance.targets)
            for instance, answer in zip(self.instances, answers, strict=True)
        ]
        return statistics.fmean(hits)


def run() -> dict[str, Any]:
    """Throughput and recall of our schedule, of the reference, and of variations of ours; see the module docstring."""
    torch.set_num_threads(1)  # as a stream worker does
    bench = _build_bench(Console())
    ours, reference = _measure_alternately(bench, OURS, REFERENCE)
    recalls = {steps: round(bench.measure_recall(_change_ours(steps=steps)), 4) for steps in (*STEPS, 16)}
    early = _change_ours(steps=16, tolerance=0.02)
    early_users_per_s = bench.measure_users_per_s(bench.build_inference(early), SLOW_USERS)
    four_samples = _change_ours(samples=4, temperature=0.5)
    return {
        "sampler_users_per_s": round(ours, 1),
        "reference_users_per_s": round(reference, 1),
        "speedup": round(ours / reference, 2),
        "recall_50": recalls[1],
        "reference_recall_50": round(bench.measure_recall(REFERENCE), 4),
        "recall_50_by_steps": recalls,
        "recall_50_early_stop": round(bench.measure_recall(early), 4),
        "early_stop_users_per_s": round(early_users_per_s, 1),
        "recall_50_infilled_25": round(bench.measure_recall(_change_ours(infilled_behaviors=25)), 4),
        "recall_50_four_samples": round(bench.measure_recall(four_samples), 4),
        "by_steps_batch_and_count": _measure_grid(bench),
        "users": USERS,
        "threads": 1,
        "items": len(bench.table.snapshot) - 1,
    }


def _measure_alternately(bench: BehaviorBench, fast: SamplerSettings, slow: SamplerSettings) -> tuple[float, float]:
    """Median users per second of two sampler settings, after a warm-up that reads the catalog."""
    inferences = [bench.build_inference(settings) for settings in (fast, slow)]
    for inference in inferences:
        bench.measure_users_per_s(inference, fast.batch_users)
    rounds = [
        [bench.measure_users_per_s(inference, users) for inference, users in zip(inferences, (USERS, SLOW_USERS), strict=True)]
        for _ in range(ROUNDS)
    ]
    fast_rates, slow_rates = zip(*rounds, strict=True)
    return statistics.median(fast_rates), statistics.median(slow_rates)


def _measure_grid(bench: BehaviorBench) -> list[dict[str, float]]:
    """Users per second by steps, batch size and number of behaviors."""
    grid = []
    for steps, batch, count in product(STEPS, BATCHES, COUNTS):
        inference = bench.build_inference(_change_ours(steps=steps, batch_users=batch, behaviors=count))
        bench.measure_users_per_s(inference, batch)  # warm-up
        rate = statistics.median(bench.measure_users_per_s(inference, max(batch, SLOW_USERS)) for _ in range(ROUNDS))
        grid.append({"steps": steps, "batch_users": batch, "behaviors": count, "users_per_s": round(rate, 1)})
    return grid


def _change_ours(**changes: Any) -> SamplerSettings:
    return OURS.model_copy(update=changes)


def _build_bench(console: Console) -> BehaviorBench:
    settings = Settings()
    with console.status("reading and encoding Online Retail"):
        experiment = build_experiment(ORDER_LINES, ANSWERS, Encoder(settings.encoder), settings.state_dir / "evaluation")
    baskets = experiment.log.between(0, experiment.cuts_ms[-1])
    data, ids = training.build_training_data(baskets, experiment.log.table, experiment.config, HELD_OUT_SHARE)
    training_config = replace(experiment.training_config, epochs=EPOCHS)
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=count_steps(len(data.train), training_config))
        sizes = replace(experiment.config, items=len(ids))
        model, _ = training.train(data, sizes, training_config, progress=lambda steps, loss: progress.advance(task, steps))
    instances = build_instances(experiment.log, *experiment.test_ms)
    table = cast(ItemTable, FixedItemTable(experiment.log.table))
    return BehaviorBench(model, ids, table, instances[:: len(instances) // USERS][:USERS])


def _to_request(instance: RankingInstance) -> InferenceRequest:
    return InferenceRequest(instance.basket.history, instance.basket.time_ms, 1)
