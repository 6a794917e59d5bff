"""The ranking evaluation end to end: a good scorer improves every metric, and events after the test period change none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.candidate_scorers import KnnScorer, ScorerFactory
from evaluation.candidate_sets import REPEATS, UNIFORM
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.instances import RankingInstance, build_instances
from evaluation.item_labels import build_item_labels
from evaluation.negative_sampling import sample_new_item_sets, sample_repeat_sets
from evaluation.outcomes import RankingOutcomes, load_outcomes, save_outcomes
from evaluation.ranking import EvaluationSplit, RankingEvaluation, RankingExperiment, Variant
from evaluation.ranking_report import build_report
from reaseq.behavior.popularity import RecentSales
from reaseq.days import DAY_MS
from reaseq.ranker.training_data import purchases_in
from reaseq.representation.trained_ids import TrainedIds
from tests.fakes.catalog import NOW_MS
from tests.fakes.interactions import TABLE, build_log, change_log_from

LOG = build_log()
CUTS = (NOW_MS + 8 * DAY_MS, NOW_MS + 14 * DAY_MS, NOW_MS + 20 * DAY_MS)
END_MS = NOW_MS + 30 * DAY_MS
SALES = RecentSales.from_baskets(LOG.baskets, TABLE)


class OracleScorer:
    """A fake scorer that scores targets highest and records the times of the instances it scored."""

    def __init__(self, cut_ms: int) -> None:
        self.cut_ms = cut_ms
        self.scored_ms: list[int] = []

    def scores(self, instances: Sequence[RankingInstance], rows: Tensor) -> Tensor:
        self.scored_ms += [instance.basket.time_ms for instance in instances]
        hits = [torch.isin(row, torch.from_numpy(it.targets)) for row, it in zip(rows, instances, strict=True)]
        return torch.stack(hits).float().unsqueeze(-1) * 3


def build_experiment(scorers: dict[str, ScorerFactory], ages_ms: dict[str, int] | None = None) -> RankingExperiment:
    train, test = build_instances(LOG, CUTS[0], CUTS[-1]), build_instances(LOG, CUTS[-1], END_MS)
    labels = build_item_labels([[] for _ in LOG.items], TABLE.vectors[1:])
    return RankingExperiment(
        name="made up",
        table=TABLE,
        events=purchases_in(LOG.baskets),
        trained_ids=TrainedIds(sorted({item_id for b in LOG.between(0, CUTS[-1]) for item_id in b.item_ids})),
        train=(
            EvaluationSplit(train, sample_new_item_sets(train, TABLE, SALES, 1)),
            EvaluationSplit(*sample_repeat_sets(train, TABLE, 1)),
        ),
        test={
            "new": EvaluationSplit(test, sample_new_item_sets(test, TABLE, SALES, 2)),
            "repeats": EvaluationSplit(*sample_repeat_sets(test, TABLE, 2)),
        },
        variants=(Variant("ids", price=False), Variant("scored", labels, vectors=True, scorers=tuple(scorers))),
        gains=(("scored", "ids"),),
        cuts_ms=CUTS,
        scorers=lambda seed: scorers,
        ages_ms=ages_ms or {},
    )


def flatten(outcomes: RankingOutcomes) -> dict[tuple[str, str, str], np.ndarray]:
    return {
        (variant, kind, name): np.asarray(values)
        for variant, outcome in outcomes.items()
        for kind, result in outcome.kinds.items()
        for name, values in vars(result).items()
        if values is not None
    }


@dataclass(frozen=True)
class OracleRun:
    """One seed of an experiment with oracle scorers, one for each cut."""

    experiment: RankingExperiment
    outcomes: RankingOutcomes
    scorers: list[OracleScorer]
    lines: list[str]


@pytest.fixture(scope="module")
def oracle_run() -> OracleRun:
    built: list[OracleScorer] = []

    def build(cut_ms: int) -> OracleScorer:
        built.append(OracleScorer(cut_ms))
        return built[-1]

    experiment = build_experiment({"oracle": build}, {"0 s": 0, "2 days": 2 * DAY_MS})
    lines: list[str] = []
    return OracleRun(experiment, RankingEvaluation(experiment).run(0, lines.append, {}), built, lines)


def test_scorers_score_only_instances_after_their_cut(oracle_run: OracleRun) -> None:
    for scorer, end_ms in zip(oracle_run.scorers, [*CUTS[1:], 2**62], strict=True):
        assert scorer.scored_ms and scorer.cut_ms <= min(scorer.scored_ms) and max(scorer.scored_ms) < end_ms


def test_oracle_scorer_improves_every_metric(oracle_run: OracleRun) -> None:
    figures = build_report(oracle_run.experiment, [oracle_run.outcomes, oracle_run.outcomes])

    new = figures["splits"]["new"]
    assert set(new["variants"]) == {"ids", "scored", "scored, 0 s old", "scored, 2 days old"}
    scored, ids = new["variants"]["scored"][UNIFORM], new["variants"]["ids"][UNIFORM]
    assert scored["gauc"]["mean"] > 0.95 > ids["gauc"]["mean"]
    assert scored["auc"] > 0.95 and scored["hr_10"]["mean"] > 0.9
    assert scored["log_loss"]["mean"] < ids["log_loss"]["mean"]
    assert new["gains"]["scored over ids"][UNIFORM]["gauc"]["low"] > 0.05
    assert new["variants"]["scored, 0 s old"] == new["variants"]["scored"]
    assert sum(new["targets_by_times_seen"].values()) == new["targets"]
    assert set(figures["splits"]["repeats"]["variants"]["ids"]) == {REPEATS}
    assert len(oracle_run.lines) == 4 and oracle_run.lines[0].startswith("ids: uniform 0.")


def test_outcomes_survive_the_file(oracle_run: OracleRun, tmp_path: Path) -> None:
    save_outcomes(oracle_run.outcomes, tmp_path / "outcomes.npz")

    stored, loaded = flatten(oracle_run.outcomes), flatten(load_outcomes(tmp_path / "outcomes.npz"))

    assert stored.keys() == loaded.keys()
    assert all(np.allclose(values, loaded[key], atol=1e-6, equal_nan=True) for key, values in stored.items())


def test_a_resumed_evaluation_runs_only_missing_variants(oracle_run: OracleRun) -> None:
    lines: list[str] = []
    saved: list[RankingOutcomes] = []
    known = {name: outcome for name, outcome in oracle_run.outcomes.items() if name != "ids"}

    resumed = RankingEvaluation(oracle_run.experiment).run(0, lines.append, known, saved.append)

    assert len(lines) == len(saved) == 1 and lines[0].startswith("ids: ")
    assert resumed.keys() == oracle_run.outcomes.keys() == saved[0].keys()


def test_runs_are_reproducible_and_ignore_events_after_the_test() -> None:
    def run(log: InteractionLog) -> dict[tuple[str, str, str], np.ndarray]:
        experiment = build_experiment({"item-kNN": lambda cut_ms: KnnScorer(log, cut_ms, 48)})
        return flatten(RankingEvaluation(replace(experiment, events=purchases_in(log.baskets))).run(0, lambda line: None, {}))

    first, second, future = run(LOG), run(LOG), run(change_log_from(LOG, END_MS))

    for key, values in first.items():
        assert np.allclose(values, second[key], atol=1e-6, equal_nan=True), key
        assert np.allclose(values, future[key], atol=1e-6, equal_nan=True), key
