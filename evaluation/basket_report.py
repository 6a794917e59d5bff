"""Reports a judge's tallies: the metrics of each model by slice, and the ranker's gains over each."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from evaluation.judge import Judge
from evaluation.tally import METRICS, MetricTally


def build_report(judge: Judge, ranker: str, peers: Sequence[str]) -> dict[str, Any]:
    """Every metric with its 95% interval over baskets; by slice and metric, the best peer and the ranker's gain over it."""
    slices = judge.tallies[ranker]
    return {
        "baskets": judge.baskets,
        "targets": {name: tally.targets for name, tally in slices.items()},
        "models": {
            model: {name: _measure_all(tally) for name, tally in tallies.items()} for model, tallies in judge.tallies.items()
        },
        "gains_over_best_peer": {
            name: {metric: _compare(judge, ranker, peers, name, metric) for metric in METRICS} for name in slices
        },
    }


def _measure_all(tally: MetricTally) -> dict[str, Any]:
    return {metric: asdict(estimate) if (estimate := tally.measure(metric)) else None for metric in METRICS}


def _compare(judge: Judge, ranker: str, peers: Sequence[str], name: str, metric: str) -> dict[str, Any]:
    best = judge.best(peers, name, metric)
    gain = judge.tallies[ranker][name].measure(metric, judge.tallies[best][name])
    return {"peer": best, **(asdict(gain) if gain else {})}
