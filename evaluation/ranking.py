"""Trains and judges rankers with different features on the same candidate sets, to measure what each feature adds.

Global time split. The ranker trains on the blocks before the test. Statistics of items, co-behavior counts and behavior models
are read in a block only if they were built before it began. Histories, popularity and the items on sale are those strictly
before the instance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from evaluation import metrics
from evaluation.candidate_scorers import CandidateScorer, ScorerFactory
from evaluation.candidate_sets import CandidateSets
from evaluation.instances import RankingInstance, age_instances, to_times
from evaluation.item_labels import ItemLabels
from evaluation.outcomes import KindOutcome, RankingOutcomes, VariantOutcome
from evaluation.ranking_features import BatchBuilder, build_examples, concatenate_examples
from reaseq.aggregates import EventLog
from reaseq.ranker import training
from reaseq.ranker.item_statistics import ItemStatistics
from reaseq.ranker.model import RankerBatch, RankerConfig
from reaseq.ranker.numbers import NUMBERS
from reaseq.ranker.training import RankerLossModule, RankerTrainingConfig
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

HELD_OUT_SHARE = 0.1  # the latest training instances, on which probabilities are calibrated
SCORING_BATCH = 32
NEVER_MS = 2**62
TRAINING = RankerTrainingConfig(epochs=1, batch_baskets=8, learning_rate=6e-3)  # a second epoch overfits on these samples


@dataclass(frozen=True)
class EvaluationSplit:
    """Ranking instances in order of time, and a candidate set for each."""

    instances: list[RankingInstance]
    candidate_sets: CandidateSets


@dataclass(frozen=True)
class Variant:
    """What a ranker reads besides ids, the user's own items, item statistics, the calendar and recent popularity."""

    name: str
    labels: ItemLabels | None = None
    vectors: bool = False
    price: bool = True
    declared: bool = False  # whether it reads the declared attributes in the table
    scorers: tuple[str, ...] = ()  # other models whose scores of each candidate it reads
    history: int = 48  # behaviors
    search: int = 0  # how many of the behaviors to attend to; 0 for all


@dataclass(frozen=True)
class RankingExperiment:
    """A data set with its splits, and the variants to compare.

    Attributes:
        events: what popularity counts.
        trained_ids: the items that training knows.
        train: the splits to train on; probabilities are calibrated on the first one.
        test: the splits to judge on, by name; probabilities and ages are judged on the first one.
        gains: pairs of variants to compare: the one with more features, and its baseline.
        cuts_ms: the scorer built before cuts_ms[k] scores the instances of [cuts_ms[k], cuts_ms[k + 1]), the last the test.
        scorers: builds the scorer factories of a seed, by name.
        statistics: of the items in the log before each cut, which every variant reads, by the cut.
        ages_ms: by name, how much the features of the last variant are aged.
    """

    name: str
    table: Snapshot
    events: EventLog
    trained_ids: TrainedIds
    train: tuple[EvaluationSplit, ...]
    test: dict[str, EvaluationSplit]
    variants: tuple[Variant, ...]
    gains: tuple[tuple[str, str], ...]
    cuts_ms: tuple[int, ...] = ()
    scorers: Callable[[int], Mapping[str, ScorerFactory]] = lambda seed: {}
    statistics: dict[int, ItemStatistics] = field(default_factory=dict)
    ages_ms: dict[str, int] = field(default_factory=dict)
    training_config: RankerTrainingConfig = TRAINING

    @property
    def aged_variants(self) -> dict[str, int]:
        """Ages in ms by the name of the aged variant."""
        return {f"{self.variants[-1].name}, {age} old": age_ms for age, age_ms in self.ages_ms.items()}


class RankingEvaluation:
    """Runs the variants of an experiment, seed by seed, on the same candidate sets."""

    def __init__(self, experiment: RankingExperiment) -> None:
        self.experiment = experiment
        self._batches = BatchBuilder(experiment.events, experiment.table, experiment.statistics)

    def run(
        self,
        seed: int,
        report: Callable[[str], None],
        known: RankingOutcomes,
        save: Callable[[RankingOutcomes], None] = lambda outcomes: None,
    ) -> RankingOutcomes:
        """Train and judge every variant that is not `known` yet; `save` gets all outcomes after each variant."""
        experiment, outcomes = self.experiment, dict(known)
        scores = ScorerOutputs(experiment, seed)
        for variant in experiment.variants:
            aged = experiment.aged_variants if variant is experiment.variants[-1] else {}
            names = (variant.name, *aged)
            if all(name in outcomes for name in names):
                continue
            loss_module = self._train(variant, scores, seed)
            outcomes[variant.name] = self._judge(variant, loss_module, scores)
            for name, age_ms in aged.items():
                outcomes[name] = self._judge_aged(variant, loss_module, scores, age_ms)
            for name in names:
                report(f"{name}: {_summarize(outcomes[name])}")
            save(outcomes)
        return outcomes

    def _train(self, variant: Variant, scores: "ScorerOutputs", seed: int) -> RankerLossModule:
        experiment = self.experiment
        parts = []
        for index, split in enumerate(experiment.train):
            split_scores = [scores.score_training(name, index) for name in variant.scorers]
            batch = self._batches.build(split.instances, split.candidate_sets.rows, variant.history, split_scores)
            parts.append(build_examples(batch, split.candidate_sets, calibrates=index == 0))
        first = parts[0]
        cut = round(len(first) * (1 - HELD_OUT_SHARE))
        cut_ms = int(first.batch.now_ms[cut]) if cut < len(first) else NEVER_MS
        examples = concatenate_examples([part[(part.batch.now_ms < cut_ms).nonzero().flatten()] for part in parts])
        held_out = first[torch.arange(cut, len(first))]
        config = RankerConfig(
            vector_dim=experiment.table.contents.vectors.shape[1] if variant.vectors else 0,
            claims=variant.labels.claims if variant.labels else 1,
            items=len(experiment.trained_ids),
            history=variant.history,
            inferred=0,
            scores=examples.batch.numbers.shape[-1] - NUMBERS,
            search=variant.search,
            price=variant.price,
            attributes=experiment.table.contents.attributes.fields if variant.declared else (),
        )
        table = _with_labels(experiment.table, variant.labels) if variant.labels else experiment.table
        seeded = replace(experiment.training_config, seed=seed)
        model, _ = training.train(examples, held_out, table, experiment.trained_ids, config, seeded)
        return RankerLossModule(model, examples, table, experiment.trained_ids, torch.device("cpu"))

    def _judge(self, variant: Variant, loss_module: RankerLossModule, scores: "ScorerOutputs") -> VariantOutcome:
        kinds: dict[str, KindOutcome] = {}
        for name, split in self.experiment.test.items():
            split_scores = [scores.score_test(scorer, name) for scorer in variant.scorers]
            batch = self._batches.build(split.instances, split.candidate_sets.rows, variant.history, split_scores)
            kinds |= judge_candidates(loss_module, batch, split.candidate_sets)
        return VariantOutcome(kinds)

    def _judge_aged(
        self, variant: Variant, loss_module: RankerLossModule, scores: "ScorerOutputs", age_ms: int
    ) -> VariantOutcome:
        """The outcome on the first test split, with features that are `age_ms` old."""
        split = next(iter(self.experiment.test.values()))
        instances, rows = age_instances(split.instances, age_ms), split.candidate_sets.rows
        split_scores = [scores.score(scorer, instances, rows) for scorer in variant.scorers]
        batch = self._batches.build(instances, rows, variant.history, split_scores, age_ms)
        return VariantOutcome(judge_candidates(loss_module, batch, split.candidate_sets))


class ScorerOutputs:
    """Scores by the scorers of one seed, each scorer built when it is first needed."""

    def __init__(self, experiment: RankingExperiment, seed: int) -> None:
        self._experiment, self._seed = experiment, seed
        self._scorers: dict[str, list[CandidateScorer]] = {}  # one for each cut
        self._scored: dict[tuple[str, str | int], Tensor] = {}

    def score(self, name: str, instances: Sequence[RankingInstance], rows: Tensor) -> Tensor:
        """Scores (n, C, E) by the scorer of the last cut, which may see everything before the test."""
        return self._build(name)[-1].scores(instances, rows)

    def score_test(self, name: str, split_name: str) -> Tensor:
        """Scores of a test split."""
        key = (name, split_name)
        if key not in self._scored:
            split = self._experiment.test[split_name]
            self._scored[key] = self.score(name, split.instances, split.candidate_sets.rows)
        return self._scored[key]

    def score_training(self, name: str, index: int) -> Tensor:
        """Scores of a training split, each block by the scorer that was built before it."""
        key = (name, index)
        if key not in self._scored:
            split = self._experiment.train[index]
            times_ms, blocks = to_times(split.instances), []
            for scorer, (start_ms, end_ms) in zip(self._build(name), pairwise(self._experiment.cuts_ms), strict=False):
                block = ((times_ms >= start_ms) & (times_ms < end_ms)).nonzero().flatten()
                if len(block):
                    instances = [split.instances[row] for row in block.tolist()]
                    blocks.append(scorer.scores(instances, split.candidate_sets.rows[block]))
            self._scored[key] = torch.cat(blocks)
        return self._scored[key]

    def _build(self, name: str) -> list[CandidateScorer]:
        if name not in self._scorers:
            factory = self._experiment.scorers(self._seed)[name]
            self._scorers[name] = [factory(cut_ms) for cut_ms in self._experiment.cuts_ms]
        return self._scorers[name]


def _with_labels(table: Snapshot, labels: ItemLabels) -> Snapshot:
    return replace(table, contents=replace(labels.contents, attributes=table.contents.attributes))


def judge_candidates(
    loss_module: RankerLossModule, batch: RankerBatch, candidate_sets: CandidateSets
) -> dict[str, KindOutcome]:
    """Outcomes of a trained ranker, by kind of negatives."""
    scores = _score(loss_module, batch)
    outcomes = {kind: KindOutcome(*candidate_sets.rank_targets(scores, kind)) for kind in candidate_sets.negatives}
    mask, labels = candidate_sets.calibration_mask.numpy(), candidate_sets.labels.numpy()
    probabilities, values = loss_module.model.probability(scores).numpy(), scores.numpy()
    first = next(iter(outcomes))
    outcomes[first] = replace(
        outcomes[first],
        log_loss=metrics.log_loss(probabilities, labels, mask),
        auc=metrics.pooled_auc(values[mask & labels], values[mask & ~labels]),
    )
    return outcomes


def _score(loss_module: RankerLossModule, batch: RankerBatch) -> Tensor:
    """Scores (n, C)."""
    model = loss_module.model.eval()
    with torch.inference_mode():
        items = loss_module.items()
        parts = torch.split(torch.arange(len(batch.candidates)), SCORING_BATCH)
        return torch.cat([model(batch[indices], items) for indices in parts])


def _summarize(outcome: VariantOutcome) -> str:
    return ", ".join(f"{kind} {np.nanmean(result.target_auc):.4f}" for kind, result in outcome.kinds.items())
