"""Runs the entries of a leave-one-out table, and reports them beside what was published."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.experiments.leave_one_out import MAIN, TOLD, LeaveOneOutExperiment
from evaluation.intervals import estimate_mean
from evaluation.leave_one_out import CUTOFF, Ranks, TargetRanks, measure, rank_targets
from evaluation.metrics import hit, ndcg
from evaluation.published import PUBLISHED

PROTOCOL = (
    "Amazon Beauty 5-core; the last item of each user is the test, the second last validation, the rest training; all items of "
    "the catalog are candidates; file order within a day; ties count against the target; all counts are of training sequences"
)


@dataclass(frozen=True)
class EntryOutcome:
    """The ranks of the targets by one entry, for each seed."""

    name: str
    validation: tuple[TargetRanks, ...]
    test: tuple[TargetRanks, ...]

    @property
    def summary(self) -> str:
        """The figures of the first seed, with items of the history as candidates."""
        parts = {"test": self.test, "validation": self.validation}
        figures = {part: measure(ranks[0].seen_kept).items() for part, ranks in parts.items()}
        return "; ".join(
            f"{part} " + ", ".join(f"{key} {value:.4f}" for key, value in of.items()) for part, of in figures.items()
        )


def run(experiment: LeaveOneOutExperiment, seeds: int) -> Iterator[EntryOutcome]:
    """Rank the targets by each entry, when reached."""
    for entry in experiment.entries(seeds):
        scores = [build() for build in entry.builds]
        validation, test = (
            tuple(rank_targets(score, held_out) for score in scores)
            for held_out in (experiment.validation, experiment.split.test)
        )
        yield EntryOutcome(entry.name, validation, test)


def build_report(experiment: LeaveOneOutExperiment, outcomes: Sequence[EntryOutcome]) -> dict[str, Any]:
    """Every figure with its interval over users and seeds. The first two are the main entry's, NaN before it is reached."""
    mains = [measure(ranks.seen_kept) for outcome in outcomes if outcome.name == MAIN for ranks in outcome.test]
    main = {
        f"{metric}_{CUTOFF}": float(np.mean([seed[f"{metric}_{CUTOFF}"] for seed in mains]))
        for metric in ("recall", "ndcg")
        if mains
    }
    return {
        **main,
        "main": MAIN,
        "protocol": PROTOCOL,
        "users": len(experiment.split.test),
        "items": experiment.split.train.items - 1,
        "entries": {outcome.name: _figures(experiment, outcome) for outcome in outcomes},
        "published": [asdict(figure) for figure in PUBLISHED],
    }


def _figures(experiment: LeaveOneOutExperiment, outcome: EntryOutcome) -> dict[str, Any]:
    test = experiment.split.test
    same_day = test.days == [days[-1] for days in test.histories.days]  # the order of the file decided which one is the target
    kept = [ranks.seen_kept for ranks in outcome.test]
    return {
        "seeds": len(outcome.test),
        "told_time": outcome.name in TOLD,
        "seen_kept": _estimate(kept),
        "seen_left_out": _estimate([ranks.seen_left_out for ranks in outcome.test]),
        "seen_kept_target_on_day_of_item_before": _estimate([np.where(same_day, ranks, np.nan) for ranks in kept]),
        "seen_kept_target_on_later_day": _estimate([np.where(same_day, np.nan, ranks) for ranks in kept]),
        "validation_seen_kept": _estimate([ranks.seen_kept for ranks in outcome.validation]),
    }


def _estimate(ranks: Sequence[Ranks]) -> dict[str, Any]:
    users = np.arange(len(ranks[0]))
    by_metric = {"recall": hit, "ndcg": ndcg}
    return {
        f"{name}_{CUTOFF}": asdict(estimate_mean([metric(of_seed, CUTOFF) for of_seed in ranks], users))
        for name, metric in by_metric.items()
    }
