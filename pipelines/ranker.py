"""The ranker: archived features → point-in-time join → train → measure on the latest baskets → publish."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from evaluation import metrics
from features.historical import events_in_archive, instances_in_archive
from features.repository import FeatureRepository
from pipelines.catalog import load_item_table
from reaseq.artifacts import Artifact, current, is_published, load_version
from reaseq.behavior.calibration import expected_error
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.days import DAY_MS, to_day
from reaseq.errors import ArtifactError, CatalogError
from reaseq.model_artifacts import publish_model
from reaseq.ranker.batch import FEATURES_VERSION
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.item_statistics import ItemStatistics, save_statistics
from reaseq.ranker.item_statistics import fit as fit_statistics
from reaseq.ranker.latent import SCORES, LatentModels
from reaseq.ranker.model import Ranker, RankerConfig
from reaseq.ranker.numbers import POPULARITY
from reaseq.ranker.popularity import Popularity
from reaseq.ranker.training import (
    RankerExamples,
    RankerLossModule,
    RankerSample,
    RankerTrainingConfig,
    build_examples,
    score,
    train,
)
from reaseq.records import Inferred
from reaseq.representation.item_table import ItemTable
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import Settings
from reaseq.training_loop import Curve, Progress

HELD_OUT_SHARE = 0.1  # the latest baskets, to calibrate and measure on
NEVER_MS = 2**62
STATISTICS_PERIOD_MS = 60 * DAY_MS  # training baskets of one period share the statistics of the log before it


@dataclass(frozen=True)
class RankerTrainingData:
    """Baskets with point-in-time features to train a ranker on, and later ones to measure it on."""

    train: RankerExamples
    held_out: RankerExamples
    ids: TrainedIds
    config: RankerConfig
    statistics: ItemStatistics | None  # of the whole log, to serve with
    until_ms: int
    dropped_inferences: int  # baskets whose inferred behaviors came from a model trained on later data
    behavior_models: list[str]


class RankerPipeline:
    """Trains, measures and publishes rankers from the archive and the feature store."""

    def __init__(self, repository: FeatureRepository, items: ItemTable, models_dir: Path) -> None:
        self._repository = repository
        self._models_dir = models_dir
        self._space_id = items.space_id
        self._table = items.snapshot.by_id()
        self._statistics: dict[tuple[int, int], ItemStatistics | None] = {}  # by number of samples and end of the log
        self.config = RankerConfig(vector_dim=self._table.vectors.shape[1], claims=repository.vocabulary.size, scores=SCORES)

    def load_samples(self, until_ms: int) -> tuple[list[RankerSample], int]:
        """The archived baskets before `until_ms` with the inferences before each, and how many inferences were dropped.

        An inference is dropped if its model was trained on data later than the basket.
        """
        samples, dropped, trained_until = [], 0, dict[str, int]()
        for basket, inferred in instances_in_archive(self._repository, until_ms):
            if inferred.model:
                seen_ms = trained_until.setdefault(inferred.model, self._trained_until(inferred.model))
                if seen_ms > basket.time_ms:
                    inferred, dropped = Inferred(), dropped + 1
            samples.append(RankerSample(basket, inferred))
        return samples, dropped

    def build_data(
        self,
        samples: Sequence[RankerSample],
        training: RankerTrainingConfig,
        config: RankerConfig,
        since_ms: int = 0,
        dropped_inferences: int = 0,
    ) -> RankerTrainingData:
        """Examples of the baskets from `since_ms` on. Popularity counts all samples; trained ids exclude the held-out ones.

        Raises CatalogError if there are too few baskets to train and measure.
        """
        chosen = [sample for sample in samples if sample.basket.time_ms >= since_ms]
        if not chosen:
            raise CatalogError("the archive has no baskets in the training period")
        cut_ms = chosen[round((len(chosen) - 1) * (1 - HELD_OUT_SHARE))].basket.time_ms
        earlier = (sample.basket for sample in samples if sample.basket.time_ms < cut_ms)
        ids = TrainedIds(sorted({item_id for basket in earlier for item_id in basket.item_ids}))
        events = [(sample.basket.time_ms, item_id) for sample in samples for item_id in sample.basket.item_ids]
        sizes = replace(config, items=len(ids))
        with_statistics = self._add_statistics(samples, chosen)
        examples = build_examples(with_statistics, events, self._table, LatentModels(self._models_dir), sizes, training)
        before = examples.batch.now_ms < cut_ms
        train_part, held_out = (examples[part.nonzero().flatten()] for part in (before, ~before))
        if not len(train_part) or not len(held_out):
            raise CatalogError(f"{len(chosen)} baskets in the archive are too few to train and measure a ranker")
        models = sorted({sample.inferred.model for sample in chosen if sample.inferred.model})
        until_ms = chosen[-1].basket.time_ms + 1
        statistics = self._statistics_before(samples, until_ms)
        return RankerTrainingData(train_part, held_out, ids, sizes, statistics, until_ms, dropped_inferences, models)

    def train(
        self,
        data: RankerTrainingData,
        config: RankerTrainingConfig,
        checkpoint: Path | None = None,
        progress: Progress = lambda steps, loss: None,
    ) -> tuple[Ranker, Curve]:
        """A trained and calibrated ranker, and its learning curve."""
        return train(data.train, data.held_out, self._table, data.ids, data.config, config, checkpoint, progress)

    def measure(self, model: Ranker, data: RankerTrainingData) -> dict[str, dict[str, float]]:
        """Metrics of the ranker and of recent popularity on the held-out baskets, among uniformly drawn negatives."""
        held_out = data.held_out
        scores = score(RankerLossModule(model, held_out, self._table, data.ids, torch.device("cpu")), held_out)
        kept = held_out.weights > 0
        probabilities, labels = model.probability(scores)[kept], held_out.labels[kept]
        calibration_error = round(expected_error(probabilities, labels, held_out.weights[kept]), 6)
        return {
            "ranker": _rank_figures(scores, held_out) | {"calibration_error": calibration_error},
            "recent popularity": _rank_figures(held_out.batch.numbers[..., POPULARITY][..., -1], held_out),
        }

    def publish(self, model: Ranker, data: RankerTrainingData, measured: dict[str, dict[str, float]]) -> Artifact:
        """Publish a trained ranker with its measured metrics."""
        facts = {
            "space_id": self._space_id,
            "vector_dim": model.config.vector_dim,
            "vocabulary": self._repository.vocabulary.version,
            "features": FEATURES_VERSION,
            "trained_until_ms": data.until_ms,
            "behavior_models": data.behavior_models,
            "held_out": measured,
        }
        assert data.statistics  # noqa: S101  there are samples
        files = save_statistics(data.statistics)
        return publish_model(self._models_dir, RANKER, to_day(data.until_ms), model, model.config, data.ids, facts, files)

    def _add_statistics(self, samples: Sequence[RankerSample], chosen: Sequence[RankerSample]) -> list[RankerSample]:
        """The chosen samples, each with the statistics of the log before its period, so that none counts itself."""
        start_ms = chosen[0].basket.time_ms
        added = []
        for sample in chosen:
            periods = (sample.basket.time_ms - start_ms) // STATISTICS_PERIOD_MS
            statistics = self._statistics_before(samples, start_ms + periods * STATISTICS_PERIOD_MS)
            added.append(replace(sample, statistics=statistics))
        return added

    def _statistics_before(self, samples: Sequence[RankerSample], until_ms: int) -> ItemStatistics | None:
        """The statistics of the baskets before a time, None if there are none; fitted once for all rankers of one log."""
        key = len(samples), until_ms
        if key not in self._statistics:
            before = [sample.basket for sample in samples if sample.basket.time_ms < until_ms]
            self._statistics[key] = fit_statistics([(b.user_id, b.item_ids) for b in before]) if before else None
        return self._statistics[key]

    def _trained_until(self, version: str) -> int:
        """When a behavior model's training data ends. NEVER_MS if it is not published here, so its inferences are dropped."""
        try:
            return int(load_version(self._models_dir, BEHAVIOR, version).facts["trained_until_ms"])
        except ArtifactError:
            return NEVER_MS


def _rank_figures(scores: torch.Tensor, examples: RankerExamples) -> dict[str, float]:
    """GAUC and HR@10 of the positives among the uniformly drawn negatives."""
    width = examples.positives.shape[1]
    uniform = (examples.weights[:, width:] > 0) & examples.negatives
    aucs, hits = [], []
    for row, positive, negative in zip(scores.numpy(), examples.positives.numpy(), uniform.numpy(), strict=True):
        ranks = metrics.rank(row[:width][positive], row[width:][negative])
        aucs.append(metrics.target_auc(ranks, int(negative.sum())))
        hits.append(metrics.hit(ranks, 10))
    return {"gauc": round(float(np.concatenate(aucs).mean()), 4), "hr_10": round(float(np.concatenate(hits).mean()), 4)}


def load_engine(settings: Settings) -> tuple[Engine, FeatureRepository]:
    """The published ranker on the items of the feature store, with popularity from the archive."""
    repository = FeatureRepository(settings)
    items = load_item_table(repository)
    artifact = current(settings.models_dir, RANKER)
    artifact.require(vocabulary=repository.vocabulary.version, space_id=items.space_id)
    events = sorted({(time_ms, key, item_id) for _, time_ms, key, item_id in events_in_archive(repository)})
    popularity = Popularity()
    rows = items.snapshot.rows([item_id for _, _, item_id in events])
    popularity.observe(rows.numpy(), [time_ms for time_ms, _, _ in events])
    latents = LatentModels(settings.models_dir)
    if is_published(settings.models_dir, BEHAVIOR):
        latents.load(current(settings.models_dir, BEHAVIOR).version)
    return Engine.load(artifact, items, popularity, latents), repository
