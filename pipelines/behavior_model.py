"""The behavior model: archived histories → point-in-time join → train → calibrate → publish."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from features.historical import baskets_in_archive
from features.repository import FeatureRepository
from reaseq.artifacts import Artifact, current
from reaseq.behavior.backbone import PRESETS
from reaseq.behavior.examples import Basket
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.llada import load_backbone, read_config
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.token_table import build_trie
from reaseq.behavior.training import (
    HELD_OUT_SHARE,
    BehaviorTrainingConfig,
    BehaviorTrainingData,
    build_training_data,
    train,
)
from reaseq.days import to_day
from reaseq.errors import ReaSeqError
from reaseq.model_artifacts import publish_model
from reaseq.representation.item_table import ItemTable
from reaseq.representation.semantic_ids import KIND as SEMANTIC_IDS
from reaseq.representation.semantic_ids import Codebook
from reaseq.representation.trained_ids import TrainedIds
from reaseq.training_loop import Curve, Progress


def split_blocks(baskets: list[Basket], blocks: int) -> Iterator[tuple[int, list[Basket]]]:
    """Split baskets in order of time into equal blocks; yields each block's end in ms and the baskets before it."""
    for block in range(1, blocks + 1):
        end = round(len(baskets) * block / blocks)
        yield baskets[end - 1].time_ms + 1, baskets[:end]


class BehaviorModelPipeline:
    """Trains and publishes behavior models from the archive and the feature store."""

    def __init__(
        self,
        repository: FeatureRepository,
        items: ItemTable,
        models_dir: Path,
        preset: str = "tiny",
        init: Path | None = None,
        codes: bool = False,
    ) -> None:
        """Set up training of a model of a preset's size.

        `init` is the folder of a LLaDA checkpoint to start the backbone from. With `codes`, behaviors are written as semantic
        IDs. Raises ReaSeqError if the preset is unknown.
        """
        if preset not in PRESETS:
            raise ReaSeqError(f"unknown preset {preset!r}; use one of {', '.join(PRESETS)}")
        self._repository = repository
        self._models_dir = models_dir
        self._space_id = items.space_id
        self._init = init
        self._table = items.snapshot.by_id()
        self._codebook = Codebook.load(current(models_dir, SEMANTIC_IDS)) if codes else None
        self._trie = build_trie(self._codebook, self._table.vectors, self._space_id) if self._codebook else None
        self._config = BehaviorConfig(
            vector_dim=self._table.vectors.shape[1],
            claims=repository.vocabulary.size,
            codes=self._codebook.sizes if self._codebook else (),
            backbone=read_config(init) if init else PRESETS[preset],
        )

    def load_baskets(self, until_ms: int) -> list[Basket]:
        """The archived baskets before `until_ms`, each with the history before it."""
        return baskets_in_archive(self._repository, until_ms)

    def build_data(self, baskets: Sequence[Basket]) -> tuple[BehaviorTrainingData, TrainedIds]:
        """Training examples with a held-out tail, and the items that training knows."""
        return build_training_data(baskets, self._table, self._config, HELD_OUT_SHARE, self._trie)

    def train(
        self,
        data: BehaviorTrainingData,
        ids: TrainedIds,
        config: BehaviorTrainingConfig,
        checkpoint: Path | None = None,
        progress: Progress = lambda steps, loss: None,
    ) -> tuple[BehaviorModel, Curve]:
        """A trained and calibrated model, and its learning curve."""
        sizes = replace(self._config, items=len(ids))
        return train(data, sizes, config, checkpoint, progress, self._initial_model(sizes))

    def publish(self, model: BehaviorModel, ids: TrainedIds, until_ms: int, curve: Curve) -> Artifact:
        """Publish a model that was trained only on baskets before `until_ms`."""
        facts = {
            "space_id": self._space_id,
            "vector_dim": model.config.vector_dim,
            "vocabulary": self._repository.vocabulary.version,
            "trained_until_ms": until_ms,
            "held_out_loss": curve.held_out[-1],
            **({"codebook": self._codebook.version} if self._codebook else {}),
        }
        return publish_model(self._models_dir, BEHAVIOR, to_day(until_ms), model, model.config, ids, facts)

    def _initial_model(self, sizes: BehaviorConfig) -> BehaviorModel | None:
        """The model to start from, with the backbone of the LLaDA checkpoint; None without a checkpoint."""
        if not self._init:
            return None
        model = BehaviorModel(sizes)
        model.backbone = load_backbone(self._init)
        return model
