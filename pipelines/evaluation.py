"""Runs the evaluation: load a public data set, evaluate seed by seed, resume a stopped run, write the report."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evaluation import behavior_recall, leave_one_out_report, ranking_report
from evaluation.experiments import amazon_beauty, leave_one_out, mind, online_retail
from evaluation.experiments.experiment import Experiment
from evaluation.experiments.leave_one_out import LeaveOneOutExperiment
from evaluation.outcomes import load_outcomes, save_outcomes
from evaluation.ranking import RankingEvaluation, RankingExperiment
from reaseq.errors import ReaSeqError
from reaseq.representation.encoder import Encoder

Report = Callable[[str], None]


@dataclass(frozen=True)
class DataSets:
    """Where the data sets are, and the encoder of their texts. `cache` keeps vectors and outcomes of finished seeds."""

    order_lines: Path  # Online Retail
    answers: Path  # the language model's recorded answers for Online Retail
    beauty: Path  # directory of Amazon Beauty
    mind: Path  # directory of MIND
    encoder: Encoder
    cache: Path

    def load(self, name: str) -> Experiment:
        """The experiment on online-retail or amazon-beauty. Raises ReaSeqError for an unknown name or a missing file."""
        match name:
            case "online-retail":
                return online_retail.build_experiment(self.order_lines, self.answers, self.encoder, self.cache)
            case "amazon-beauty":
                _require(self.beauty / "interactions.parquet")
                return amazon_beauty.build_experiment(self.beauty, self.encoder, self.cache)
        raise ReaSeqError(f"unknown data set {name!r}; use online-retail or amazon-beauty")

    def load_ranking(self, name: str) -> RankingExperiment:
        """The ranking experiment on online-retail, amazon-beauty or mind. Raises ReaSeqError as `load` does."""
        match name:
            case "online-retail":
                history = online_retail.LONG_HISTORY
                experiment = online_retail.build_experiment(self.order_lines, self.answers, self.encoder, self.cache, history)
                return online_retail.build_ranking(experiment, self.encoder)
            case "amazon-beauty":
                return amazon_beauty.build_ranking(self.load(name), self.encoder)
            case "mind":
                _require(self.mind / "impressions_test.parquet")
                return mind.build_ranking(self.mind, self.encoder, self.cache)
        raise ReaSeqError(f"unknown data set {name!r}; use online-retail, amazon-beauty or mind")

    def load_leave_one_out(self, name: str) -> LeaveOneOutExperiment:
        """The leave-one-out experiment on amazon-beauty. Raises ReaSeqError as `load` does."""
        if name != "amazon-beauty":
            raise ReaSeqError(f"unknown data set {name!r}; use amazon-beauty")
        _require(self.beauty / "interactions.parquet")
        return leave_one_out.load(self.beauty, self.encoder, self.cache)


def evaluate_inferred(
    evaluation: behavior_recall.RecallEvaluation, name: str, seeds: int, cache: Path, report: Report
) -> dict[str, Any]:
    """Evaluate inferred behaviors with several seeds; a stopped run resumes after the last finished seed."""
    outcomes = []
    for seed in range(seeds):
        file = cache / f"inferred-{name}-{seed}.npz"
        if not file.exists():
            report(f"seed {seed}")
            behavior_recall.save_outcome(evaluation.run(seed, report), file)
        outcomes.append(behavior_recall.load_outcome(file))
    return behavior_recall.build_report(evaluation, outcomes)


def evaluate_ranking(evaluation: RankingEvaluation, name: str, seeds: int, cache: Path, report: Report) -> dict[str, Any]:
    """Evaluate the ranker's variants with several seeds; a stopped run resumes after the last finished variant."""
    outcomes = []
    for seed in range(seeds):
        file = cache / f"ranking-{name}-{seed}.npz"
        report(f"{name}, seed {seed}")
        known = load_outcomes(file) if file.exists() else {}
        outcomes.append(evaluation.run(seed, report, known, partial(save_outcomes, path=file)))
    report("computing intervals")
    return ranking_report.build_report(evaluation.experiment, outcomes)


def evaluate_leave_one_out(experiment: LeaveOneOutExperiment, seeds: int, path: Path, report: Report) -> None:
    """Evaluate every entry of the papers' table, and write the report to `path` anew after each."""
    entries = {}
    for name, figures in leave_one_out_report.measure_entries(experiment, seeds):
        by_metric = figures["seen_kept"].items()
        report(f"{name}: " + ", ".join(f"{metric} {estimate['mean']:.4f}" for metric, estimate in by_metric))
        entries[name] = figures
        write_report(leave_one_out_report.build_report(experiment, entries), path)


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def merge_report(name: str, report: dict[str, Any], path: Path) -> None:
    """Write a report under `name` into a file of several reports, and keep the others."""
    others = json.loads(path.read_text()) if path.exists() else {}
    write_report({**others, name: report}, path)


def _require(file: Path) -> None:
    if not file.exists():
        raise ReaSeqError(f"{file} does not exist: give the data set's directory with --folder")
