"""What the commands about behaviors and representation work with: the catalog in the store, and the data to train on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.historical import baskets_in_archive
from features.repository import FeatureRepository
from pipelines.knowledge import items_in_store
from reaseq.artifacts import Artifact, current
from reaseq.behavior.backbone import PRESETS
from reaseq.behavior.examples import Basket
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.llada import load_backbone, read_config
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.token_table import build_trie
from reaseq.behavior.training import HELD_OUT_SHARE, Material, build_training_data
from reaseq.days import to_day
from reaseq.errors import CatalogError
from reaseq.knowledge.vocabulary import vocabulary_in_force
from reaseq.model_artifacts import publish_model
from reaseq.records import ItemFeatures
from reaseq.representation.item_table import ItemTable, Snapshot
from reaseq.representation.semantic_ids import KIND as SEMANTIC_IDS
from reaseq.representation.semantic_ids import Codebook
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import Settings
from reaseq.training_loop import Curve


def load_catalog(repository: FeatureRepository) -> tuple[ItemTable, list[ItemFeatures]]:
    """Every listed item of the feature store, as a table and as records. Raises CatalogError where there is none."""
    records = list(items_in_store(repository))
    if not records:
        settings = repository.settings
        raise CatalogError(f"the {settings.store.profile} feature store of {settings.state_dir} holds no item")
    space_id, dim = records[0].space_id, len(records[0].vector) // 2
    table = ItemTable(vocabulary_in_force(), space_id, dim)
    table.apply(records)
    return table, records


def stack_vectors(records: Sequence[ItemFeatures]) -> NDArray[np.float32]:
    """The items' vectors (N, D)."""
    return np.stack([np.frombuffer(record.vector, np.float16).astype(np.float32) for record in records])


def split_blocks(baskets: list[Basket], blocks: int) -> Iterator[tuple[int, list[Basket]]]:
    """The ends of so many blocks of time, each with as many baskets, and what lies before each end."""
    for block in range(1, blocks + 1):
        end = round(len(baskets) * block / blocks)
        yield baskets[end - 1].time_ms + 1, baskets[:end]


class BehaviorModelPipeline:
    """Trains and publishes behavior models from what the archive and the store hold."""

    def __init__(self, settings: Settings, preset: str, init: Path | None, codes: bool) -> None:
        self._settings = settings
        self._init = init
        self.repository = FeatureRepository(settings)
        items, records = load_catalog(self.repository)
        self._space_id = records[0].space_id
        self.table: Snapshot = items.snapshot.by_id()
        self._codebook = Codebook.load(current(settings.models_dir, SEMANTIC_IDS)) if codes else None
        self._tree = build_trie(self._codebook, self.table.vectors, self._space_id) if self._codebook else None
        self._config = BehaviorConfig(
            vector_dim=self.table.vectors.shape[1],
            claims=vocabulary_in_force().size,
            codes=self._codebook.sizes if self._codebook else (),
            backbone=read_config(init) if init else PRESETS[preset],
        )

    def baskets(self, until_ms: int) -> list[Basket]:
        """What the archive tells of, before `until_ms`."""
        return baskets_in_archive(self.repository, until_ms)

    def data(self, baskets: list[Basket]) -> tuple[Material, TrainedIds, BehaviorConfig]:
        """What a model learns from, and its sizes."""
        data, ids = build_training_data(baskets, self.table, self._config, HELD_OUT_SHARE, self._tree)
        return data, ids, replace(self._config, items=len(ids))

    def new_model(self, config: BehaviorConfig) -> BehaviorModel | None:
        """The model to start from, where a checkpoint gives its backbone."""
        if not self._init:
            return None
        model = BehaviorModel(config)
        model.backbone = load_backbone(self._init)
        return model

    def publish(self, model: BehaviorModel, ids: TrainedIds, until_ms: int, curve: Curve) -> Artifact:
        """Publish a model that saw what came before `until_ms`."""
        facts = {
            "space_id": self._space_id,
            "vector_dim": model.config.vector_dim,
            "vocabulary": vocabulary_in_force().version,
            "trained_until_ms": until_ms,
            "held_out_loss": curve.held_out[-1],
            **({"codebook": self._codebook.version} if self._codebook else {}),
        }
        return publish_model(self._settings.models_dir, BEHAVIOR, to_day(until_ms), model, model.config, ids, facts)
