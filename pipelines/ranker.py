"""The ranker: archived features → point-in-time join → train → measure on the latest baskets → train on these → publish."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from evaluation import metrics
from features.historical import read_archived_log
from features.repository import FeatureRepository
from pipelines.catalog import load_aggregate_table, load_item_table
from reaseq.artifacts import Artifact, current, is_published, load_version
from reaseq.behavior.calibration import expected_error
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.days import to_day
from reaseq.errors import ArtifactError
from reaseq.model_artifacts import publish_model
from reaseq.ranker.batch import FEATURES_VERSION
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine, engine_files
from reaseq.ranker.importance import permutation_losses
from reaseq.ranker.latent import SCORES, LatentModels
from reaseq.ranker.model import Ranker, RankerConfig
from reaseq.ranker.numbers import POPULARITY
from reaseq.ranker.training import (
    RankerExamples,
    RankerLossModule,
    RankerSample,
    RankerTrainingConfig,
    catch_up,
    score,
    train,
)
from reaseq.ranker.training_data import RankerLog, RankerTrainingData, build_training_data
from reaseq.records import Inferred
from reaseq.representation.item_table import ItemTable, Snapshot
from reaseq.settings import Settings
from reaseq.training_loop import Curve, Progress

NEVER_MS = 2**62
IMPORTANCE_BASKETS = 2000  # they are scored once for each attribute


class RankerPipeline:
    """Trains, measures and publishes rankers from the archive and the feature store."""

    def __init__(self, repository: FeatureRepository, items: ItemTable, models_dir: Path) -> None:
        self._repository = repository
        self._models_dir = models_dir
        self._space_id = items.space_id
        self._table = items.snapshot.by_id()
        self.config = RankerConfig(
            vector_dim=self._table.vectors.shape[1],
            claims=repository.vocabulary.size,
            scores=SCORES,
            attributes=self._table.contents.attributes.fields,
        )

    def load_log(self, until_ms: int) -> tuple[RankerLog, int]:
        """The archived baskets before `until_ms` with the inferences before each, and how many inferences were dropped.

        An inference is dropped if its model was trained on data later than the basket.
        """
        archived = read_archived_log(self._repository, until_ms)
        samples, dropped, trained_until = [], 0, dict[str, int]()
        for basket, inferred in archived.instances:
            if inferred.model:
                seen_ms = trained_until.setdefault(inferred.model, self._trained_until(inferred.model))
                if seen_ms > basket.time_ms:
                    inferred, dropped = Inferred(), dropped + 1
            samples.append(RankerSample(basket, inferred))
        return RankerLog(samples, archived.events), dropped

    def build_data(
        self, log: RankerLog, training: RankerTrainingConfig, config: RankerConfig, since_ms: int = 0
    ) -> RankerTrainingData:
        """Training data of a configuration, from the baskets since a time. Raises CatalogError if there are too few."""
        return build_training_data(log, self._table, LatentModels(self._models_dir), config, training, since_ms)

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
        scores = self._score(model, data, held_out, self._table)
        kept = held_out.weights > 0
        probabilities, labels = model.probability(scores)[kept], held_out.labels[kept]
        calibration_error = round(expected_error(probabilities, labels, held_out.weights[kept]), 6)
        return {
            "ranker": _rank_figures(scores, held_out) | {"calibration_error": calibration_error},
            "recent popularity": _rank_figures(held_out.batch.numbers[..., POPULARITY][..., -1], held_out),
        }

    def measure_importance(self, model: Ranker, data: RankerTrainingData) -> dict[str, float]:
        """By declared attribute, how much GAUC the latest held-out baskets lose if it is shuffled among the items."""

        def gauc(examples: RankerExamples, table: Snapshot) -> float:
            return _rank_figures(self._score(model, data, examples, table), examples)["gauc"]

        latest = data.held_out[-IMPORTANCE_BASKETS:]
        return permutation_losses(gauc, latest, self._table, data.config.attribute_columns)

    def catch_up(self, model: Ranker, data: RankerTrainingData, config: RankerTrainingConfig) -> None:
        """Train a measured ranker on the latest baskets, the held-out ones among them."""
        catch_up(model, data.latest, self._table, data.ids, config)

    def _score(self, model: Ranker, data: RankerTrainingData, examples: RankerExamples, table: Snapshot) -> torch.Tensor:
        return score(RankerLossModule(model, examples, table, data.ids, torch.device("cpu")), examples)

    def publish(
        self,
        model: Ranker,
        data: RankerTrainingData,
        measured: dict[str, dict[str, float]],
        importance: Mapping[str, float] = MappingProxyType({}),
    ) -> Artifact:
        """Publish a trained ranker with its measured metrics and the importance of the declared attributes."""
        facts = {
            "space_id": self._space_id,
            "vector_dim": model.config.vector_dim,
            "vocabulary": self._repository.vocabulary.version,
            "features": FEATURES_VERSION,
            "trained_until_ms": data.until_ms,
            "behavior_models": data.behavior_models,
            "held_out": measured,
            "importance": dict(importance),
        }
        assert data.statistics  # noqa: S101  there are samples
        files = engine_files(model, data.statistics)
        return publish_model(self._models_dir, RANKER, to_day(data.until_ms), model, model.config, data.ids, facts, files)

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
    """The published ranker on the items and the aggregates of the feature store."""
    repository = FeatureRepository(settings)
    items = load_item_table(repository)
    artifact = current(settings.models_dir, RANKER)
    artifact.require(vocabulary=repository.vocabulary.version, space_id=items.space_id)
    aggregates = load_aggregate_table(repository, items)
    latents = LatentModels(settings.models_dir)
    if is_published(settings.models_dir, BEHAVIOR):
        latents.load(current(settings.models_dir, BEHAVIOR).version)
    return Engine.load(artifact, items, aggregates, latents), repository
