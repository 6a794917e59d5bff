"""What the experiments on interaction logs share: the split in time, the variants' names, and the ranking experiment on top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.candidate_scorers import KnnScorer, ScorerFactory, ScorerTrainer
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.instances import build_instances, sample_instances
from evaluation.item_labels import ItemLabels
from evaluation.negative_sampling import sample_new_item_sets, sample_repeat_sets
from evaluation.ranking import EvaluationSplit, RankingExperiment, Variant
from reaseq.behavior.model import BehaviorConfig
from reaseq.behavior.popularity import RecentSales
from reaseq.behavior.training import BehaviorTrainingConfig
from reaseq.ranker import item_statistics
from reaseq.ranker.item_statistics import ItemStatistics
from reaseq.ranker.training_data import purchases_in
from reaseq.representation.trained_ids import TrainedIds

REPEATS_LIMIT = 2000  # training instances with repeats

IDS, SIDE, TEXT, WORDS = "ids", "+ side", "+ text", "+ text + words"
ZERO_SHOT, STUDENT, LLM, PROFILE = "+ text + zero-shot", "+ text + student", "+ text + LLM", "+ text + LLM + profile"
DECLARED, TEXT_DECLARED = "+ declared", "+ text + declared"
KNN, DIFFUSION, ALL = "+ item-kNN", "+ diffusion", "all"
# What content adds, on data sets without recorded answers of a language model.
CONTENT_GAINS = (
    (SIDE, IDS),
    (DECLARED, IDS),
    (TEXT, SIDE),
    (TEXT_DECLARED, TEXT),
    (WORDS, TEXT),
    (ZERO_SHOT, TEXT),
    (ZERO_SHOT, WORDS),
)
KNN_SCORER, DIFFUSION_SCORER = "item-kNN", "diffusion"


@dataclass(frozen=True)
class Experiment:
    """An interaction log and its split in time.

    Attributes:
        cuts_ms: models built before cuts_ms[k] score [cuts_ms[k], cuts_ms[k + 1]), and the test follows the last cut.
        test_ms: start and end of the test.
        config: sizes of the behavior model.
        code_sizes: codes of each digit, for the behavior model that uses semantic IDs.
        instances_limit: most instances for the training and for the test; a random sample if there are more.
    """

    log: InteractionLog
    cuts_ms: tuple[int, ...]
    test_ms: tuple[int, int]
    config: BehaviorConfig
    training_config: BehaviorTrainingConfig
    code_sizes: tuple[int, ...]
    instances_limit: int

    @property
    def trained_ids(self) -> TrainedIds:
        """The items that were bought before the test."""
        baskets = self.log.between(0, self.cuts_ms[-1])
        return TrainedIds(sorted({item_id for basket in baskets for item_id in basket.item_ids}))

    @property
    def cold_items(self) -> Tensor:
        """Which rows (N,) are items that nobody bought before the test."""
        return ~torch.isin(torch.arange(len(self.log.table)), self.log.table.rows(self.trained_ids.item_ids))


def build_scorer_variants(labels: ItemLabels) -> tuple[Variant, ...]:
    """The variants that read other models' scores of each candidate; the last one reads all."""
    return (
        Variant(KNN, labels, vectors=True, scorers=(KNN_SCORER,)),
        Variant(DIFFUSION, labels, vectors=True, scorers=(DIFFUSION_SCORER,)),
        Variant(ALL, labels, vectors=True, scorers=(KNN_SCORER, DIFFUSION_SCORER)),
    )


def build_ranking_experiment(
    experiment: Experiment, variants: tuple[Variant, ...], gains: tuple[tuple[str, str], ...], ages_ms: dict[str, int]
) -> RankingExperiment:
    """Splits of new items and of repeats, with scorers trained on the log before each cut."""
    log = experiment.log
    sales = RecentSales.from_baskets(log.baskets, log.table)
    trainer = ScorerTrainer(log, sales, experiment.config, experiment.training_config)
    start_ms, end_ms = experiment.cuts_ms[0], experiment.cuts_ms[-1]
    train = sample_instances(build_instances(log, start_ms, end_ms), experiment.instances_limit, 1)
    test = sample_instances(build_instances(log, *experiment.test_ms), experiment.instances_limit, 2)

    def build_scorers(seed: int) -> Mapping[str, ScorerFactory]:
        return {
            KNN_SCORER: lambda cut_ms: KnnScorer(log, cut_ms, experiment.config.history),
            DIFFUSION_SCORER: lambda cut_ms: trainer.train_diffusion(cut_ms, seed),
        }

    train_splits = (
        EvaluationSplit(train, sample_new_item_sets(train, log.table, sales, 1)),
        EvaluationSplit(*sample_repeat_sets(sample_instances(train, REPEATS_LIMIT, 3), log.table, 1)),
    )
    test_splits = {
        "new": EvaluationSplit(test, sample_new_item_sets(test, log.table, sales, 2)),
        "repeats": EvaluationSplit(*sample_repeat_sets(test, log.table, 2)),
    }
    return RankingExperiment(
        name=log.name,
        table=log.table,
        events=purchases_in(log.baskets),
        trained_ids=experiment.trained_ids,
        train=tuple(split for split in train_splits if split.instances),
        test={name: split for name, split in test_splits.items() if split.instances},
        variants=variants,
        gains=gains,
        cuts_ms=experiment.cuts_ms,
        scorers=build_scorers,
        statistics=fit_statistics(log, experiment.cuts_ms),
        ages_ms=ages_ms,
    )


def fit_statistics(log: InteractionLog, cuts_ms: Sequence[int]) -> dict[int, ItemStatistics]:
    """Statistics of the items in the log before each cut."""
    return {
        cut_ms: item_statistics.fit([(basket.user_id, basket.item_ids) for basket in log.between(0, cut_ms)])
        for cut_ms in cuts_ms
    }
