"""What the commands about the ranker work with: data out of the archive, and the engine on what the store holds."""

from dataclasses import dataclass

import torch

from features.historical import events_in_archive, instances_in_archive
from features.repository import FeatureRepository
from pipelines.behavior_model import load_catalog
from reaseq.artifacts import Artifact, current, version_of
from reaseq.behavior.calibration import expected_error
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.days import to_day
from reaseq.errors import ArtifactError, CatalogError
from reaseq.knowledge.vocabulary import vocabulary_in_force
from reaseq.model_artifacts import publish_model
from reaseq.ranker.batch import FEATURES
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.latent import SCORES, LatentModels
from reaseq.ranker.model import Ranker, RankerConfig
from reaseq.ranker.popularity import Popularity
from reaseq.ranker.training import Examples, Objective, RankerTrainingConfig, Sample, build_examples, score
from reaseq.records import Inferred
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import Settings

HELD_OUT_SHARE = 0.1  # of the baskets, the latest: to calibrate and to measure on


@dataclass(frozen=True)
class Material:
    """What a ranker learns from: baskets point in time, and later ones to measure it on."""

    examples: Examples
    held_out: Examples
    ids: TrainedIds
    config: RankerConfig
    until_ms: int
    rejected: int  # baskets whose inferred behaviors came from a model of later time
    behavior_models: list[str]


class RankerPipeline:
    """Trains and publishes rankers from what the archive and the store hold."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.repository = FeatureRepository(settings)
        items, records = load_catalog(self.repository)
        self._space_id = records[0].space_id
        self.table: Snapshot = items.snapshot.by_id()

    def data(self, until_ms: int, plan: RankerTrainingConfig) -> Material:
        """Material of the baskets before `until_ms`."""
        samples, rejected = self._samples(until_ms)
        until_ms = samples[-1].basket.time_ms + 1
        cut_ms = samples[round((len(samples) - 1) * (1 - HELD_OUT_SHARE))].basket.time_ms
        earlier = (sample.basket for sample in samples if sample.basket.time_ms < cut_ms)
        ids = TrainedIds(sorted({item_id for basket in earlier for item_id in basket.item_ids}))
        config = RankerConfig(
            vector_dim=self.table.contents.vectors.shape[1],
            claims=vocabulary_in_force().size,
            items=len(ids),
            scores=SCORES,
        )
        events = [(sample.basket.time_ms, item_id) for sample in samples for item_id in sample.basket.item_ids]
        latents = LatentModels(self._settings.models_dir)
        examples = build_examples(samples, events, self.table, latents, config, plan)
        before = examples.request.now_ms < cut_ms
        parts = [examples[of.nonzero().flatten()] for of in (before, ~before)]
        if not all(map(len, parts)):
            raise CatalogError(f"{len(samples)} baskets in the archive are too few to train a ranker and to measure it")
        models = sorted({sample.inferred.model for sample in samples if sample.inferred.model})
        return Material(parts[0], parts[1], ids, config, until_ms, rejected, models)

    def publish(self, model: Ranker, data: Material) -> tuple[Artifact, dict[str, dict[str, float]]]:
        """Measure a trained ranker on the latest baskets, and publish it; returns the figures beside popularity's."""
        measured = measure(model, data, self.table)
        facts = {
            "space_id": self._space_id,
            "vector_dim": model.config.vector_dim,
            "vocabulary": vocabulary_in_force().version,
            "features": FEATURES,
            "trained_until_ms": data.until_ms,
            "behavior_models": data.behavior_models,
            "held_out": measured,
        }
        label = to_day(data.until_ms)
        models = self._settings.models_dir
        return publish_model(models, RANKER, label, model, model.config, data.ids, facts), measured

    def _samples(self, until_ms: int) -> tuple[list[Sample], int]:
        """Baskets with what was inferred before each, unless its model knew later time: then it is not told."""
        samples, rejected, known_until = [], 0, dict[str, int]()
        for basket, inferred in instances_in_archive(self.repository, until_ms):
            if inferred.model:
                trained_ms = known_until.setdefault(inferred.model, self._trained_until(inferred.model))
                if trained_ms > basket.time_ms:
                    inferred, rejected = Inferred(), rejected + 1
            samples.append(Sample(basket, inferred))
        return samples, rejected

    def _trained_until(self, version: str) -> int:
        """When what a behavior model learnt from ends; of one that is not published here, never: it cannot be trusted."""
        try:
            return int(version_of(self._settings.models_dir, BEHAVIOR, version).facts["trained_until_ms"])
        except ArtifactError:
            return 2**62


def measure(model: Ranker, data: Material, table: Snapshot) -> dict[str, dict[str, float]]:
    """Figures of the ranker and of recent popularity on the held-out baskets, among negatives that were drawn evenly."""
    held_out = data.held_out
    scores = score(Objective(model, held_out, table, data.ids, torch.device("cpu")), held_out)
    kept = held_out.weights > 0
    p, taken = model.probability(scores)[kept], held_out.taken[kept]
    of_ranker = _ranked(scores, held_out) | {"calibration_error": round(expected_error(p, taken, held_out.weights[kept]), 6)}
    return {"ranker": of_ranker, "recent popularity": _ranked(held_out.request.counts[..., -1], held_out)}


def _ranked(scores: torch.Tensor, examples: Examples) -> dict[str, float]:
    """GAUC and HR@10 of the real positives against the evenly drawn negatives."""
    count = examples.positives.shape[1]
    even = (examples.weights[:, count:] > 0) & examples.negatives
    aucs, hits = [], []
    for row, real, rivals in zip(scores, examples.positives, even, strict=True):
        against = row[count:][rivals]
        above = (against > row[:count][real].unsqueeze(-1)).sum(-1) + 0.5 * (against == row[:count][real].unsqueeze(-1)).sum(-1)
        aucs.append(1 - above / max(1, len(against)))
        hits.append((above < 10).float())
    return {"gauc": round(float(torch.cat(aucs).mean()), 4), "hr_10": round(float(torch.cat(hits).mean()), 4)}


def engine_on_store(settings: Settings) -> tuple[Engine, FeatureRepository]:
    """The published ranker on the items of the feature store, with popularity out of the archive."""
    repository = FeatureRepository(settings)
    items, records = load_catalog(repository)
    artifact = current(settings.models_dir, RANKER)
    artifact.require(vocabulary=vocabulary_in_force().version, space_id=records[0].space_id)
    events = sorted({(time_ms, key, item_id) for _, time_ms, key, item_id in events_in_archive(repository)})
    popularity = Popularity()
    rows = items.snapshot.rows([item_id for _, _, item_id in events])
    popularity.observe(rows.numpy(), [time_ms for time_ms, _, _ in events])
    latents = LatentModels(settings.models_dir)
    if (settings.models_dir / BEHAVIOR).exists():
        latents.load(current(settings.models_dir, BEHAVIOR).version)
    return Engine.load(artifact, items, popularity, latents), repository
