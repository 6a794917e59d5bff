"""A log as the ranker's training data: every basket with what was known before it, and the latest ones held out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from reaseq.aggregates import BUILT_IN, EventLog, LoggedAggregates
from reaseq.behavior.examples import Basket
from reaseq.days import DAY_MS
from reaseq.errors import CatalogError
from reaseq.ranker.item_statistics import ItemStatistics, fit
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.training import RankerExamples, RankerSample, RankerTrainingConfig, build_examples
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

HELD_OUT_SHARE = 0.1  # the latest baskets, to calibrate and measure on
STATISTICS_PERIOD_MS = 60 * DAY_MS  # training baskets of one period share the statistics of the log before it


@dataclass(frozen=True)
class RankerTrainingData:
    """Baskets with point-in-time features to train a ranker on, and later ones to measure it on."""

    examples: RankerExamples  # in order of time
    held_out_count: int  # so many of the last examples are held out; at least 1
    ids: TrainedIds
    config: RankerConfig
    statistics: ItemStatistics | None  # of the whole log, to serve with
    until_ms: int
    behavior_models: list[str]  # whose inferences the baskets have

    @property
    def train(self) -> RankerExamples:
        """The examples to train on."""
        return self.examples[: -self.held_out_count]

    @property
    def held_out(self) -> RankerExamples:
        """The later ones, to calibrate and measure on."""
        return self.examples[-self.held_out_count :]

    @property
    def latest(self) -> RankerExamples:
        """The held-out examples and as many before them, to catch up on in the end."""
        return self.examples[-2 * self.held_out_count :]

    def restricted_to(self, config: RankerConfig) -> "RankerTrainingData":
        """The same baskets and candidates for a ranker that reads fewer scores, which saves building them again."""
        every = self.examples.batch.numbers
        numbers = torch.cat([every[..., : config.score_columns.stop], every[..., self.config.attribute_columns]], dim=-1)
        examples = replace(self.examples, batch=replace(self.examples.batch, numbers=numbers))
        return replace(self, examples=examples, config=replace(config, items=self.config.items))


class RankerLog:
    """Samples of a log in order of time, and its events, which aggregates count.

    Rankers of several configurations share the log's statistics, which are fitted once.
    """

    def __init__(self, samples: Sequence[RankerSample], events: EventLog) -> None:
        self.samples = samples
        self.events = events
        self._statistics: dict[int, ItemStatistics | None] = {}  # by the end of the log that they describe

    def since(self, time_ms: int) -> list[RankerSample]:
        """The samples from a time on, each with the statistics of the log before its period, so that none counts itself."""
        chosen = [sample for sample in self.samples if sample.basket.time_ms >= time_ms]
        added = []
        for sample in chosen:
            start_ms = chosen[0].basket.time_ms
            periods = (sample.basket.time_ms - start_ms) // STATISTICS_PERIOD_MS
            added.append(replace(sample, statistics=self.statistics_before(start_ms + periods * STATISTICS_PERIOD_MS)))
        return added

    def statistics_before(self, until_ms: int) -> ItemStatistics | None:
        """The statistics of the baskets before a time, None if there are none."""
        if until_ms not in self._statistics:
            before = [sample.basket for sample in self.samples if sample.basket.time_ms < until_ms]
            self._statistics[until_ms] = fit([(b.user_id, b.item_ids) for b in before]) if before else None
        return self._statistics[until_ms]


def build_training_data(
    log: RankerLog,
    table: Snapshot,
    latents: LatentModels | None,
    config: RankerConfig,
    training: RankerTrainingConfig,
    since_ms: int = 0,
) -> RankerTrainingData:
    """Examples of the baskets from `since_ms` on. Aggregates are of the whole log; trained ids exclude the held-out baskets.

    `latents` score candidates if `config` has scores. Raises CatalogError if there are too few baskets to train and measure.
    """
    chosen = log.since(since_ms)
    if not chosen:
        raise CatalogError("the log has no baskets in the training period")
    cut_ms = chosen[round((len(chosen) - 1) * (1 - HELD_OUT_SHARE))].basket.time_ms
    baskets = [sample.basket for sample in log.samples]
    ids = TrainedIds(sorted({item_id for basket in baskets if basket.time_ms < cut_ms for item_id in basket.item_ids}))
    aggregates = LoggedAggregates(BUILT_IN, log.events, table.rows(log.events.item_ids).numpy())
    sizes = replace(config, items=len(ids))
    examples = build_examples(chosen, aggregates, table, latents, sizes, training)
    held_out = int((examples.batch.now_ms >= cut_ms).sum())
    if not 0 < held_out < len(examples):
        raise CatalogError(f"{len(chosen)} baskets are too few to train and measure a ranker")
    until_ms = chosen[-1].basket.time_ms + 1
    models = sorted({sample.inferred.model for sample in chosen if sample.inferred.model})
    return RankerTrainingData(examples, held_out, ids, sizes, log.statistics_before(until_ms), until_ms, models)


def purchases_in(baskets: Sequence[Basket]) -> EventLog:
    """Every item of every basket as a purchase."""
    item_ids = [item_id for basket in baskets for item_id in basket.item_ids]
    return EventLog.of_purchases(item_ids, [basket.time_ms for basket in baskets for _ in basket.item_ids])
