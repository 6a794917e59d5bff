"""Measures the entries of a leave-one-out table, and reports them beside what was published."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.experiments.leave_one_out import MAIN, TOLD, Entry, LeaveOneOutExperiment
from evaluation.intervals import estimate_mean
from evaluation.leave_one_out import CUTOFF, Ranks, rank_targets
from evaluation.metrics import hit, ndcg
from evaluation.published import PUBLISHED

PROTOCOL = (
    "Amazon Beauty 5-core; the last item of each user is the test, the second last validation, the rest training; all items of "
    "the catalog are candidates; file order within a day; ties count against the target"
)

Figures = dict[str, Any]


def measure_entries(experiment: LeaveOneOutExperiment, seeds: int) -> Iterator[tuple[str, Figures]]:
    """The figures of each entry, with their intervals over users and seeds; computed when reached."""
    for entry in experiment.entries(seeds):
        yield entry.name, _measure(experiment, entry)


def build_report(experiment: LeaveOneOutExperiment, entries: Mapping[str, Figures]) -> dict[str, Any]:
    """The entries and what was published. The report opens with the main entry's figures, once it is measured."""
    main = entries[MAIN]["seen_kept"] if MAIN in entries else {}
    return {
        **{metric: estimate["mean"] for metric, estimate in main.items()},
        "main": MAIN,
        "protocol": PROTOCOL,
        "users": len(experiment.split.test),
        "items": experiment.split.train.items - 1,
        "entries": dict(entries),
        "published": [asdict(figure) for figure in PUBLISHED],
    }


def _measure(experiment: LeaveOneOutExperiment, entry: Entry) -> Figures:
    test = experiment.split.test
    same_day = test.days == [days[-1] for days in test.histories.days]  # the order of the file decided which one is the target
    scores = [build() for build in entry.builds]
    ranks = [rank_targets(score, test) for score in scores]
    kept = [of_seed.seen_kept for of_seed in ranks]
    return {
        "seeds": len(scores),
        "told_time": entry.name in TOLD,
        "seen_kept": _estimate(kept),
        "seen_left_out": _estimate([of_seed.seen_left_out for of_seed in ranks]),
        "seen_kept_target_on_day_of_item_before": _estimate([np.where(same_day, of_seed, np.nan) for of_seed in kept]),
        "seen_kept_target_on_later_day": _estimate([np.where(same_day, np.nan, of_seed) for of_seed in kept]),
        "validation_seen_kept": _estimate([rank_targets(score, experiment.validation).seen_kept for score in scores]),
    }


def _estimate(ranks: Sequence[Ranks]) -> dict[str, Any]:
    users = np.arange(len(ranks[0]))
    return {
        f"{name}_{CUTOFF}": asdict(estimate_mean([metric(of_seed, CUTOFF) for of_seed in ranks], users))
        for name, metric in (("recall", hit), ("ndcg", ndcg))
    }
