"""The alignment head: archived baskets → pairs of items that users chose together → train → publish."""

from collections.abc import Callable

from torch import Tensor

from features.historical import baskets_in_archive
from features.repository import FeatureRepository
from reaseq.artifacts import Artifact
from reaseq.behavior.examples import build_pairs
from reaseq.days import to_day
from reaseq.representation.alignment import AlignmentHead, AlignmentTrainingConfig, train_head
from reaseq.representation.item_table import ItemTable


class AlignmentPipeline:
    """Trains and publishes alignment heads from the archive and the feature store."""

    def __init__(self, repository: FeatureRepository, items: ItemTable, until_ms: int) -> None:
        self._models_dir = repository.settings.models_dir
        self._space_id = items.space_id
        self._table = items.snapshot.by_id()
        self._baskets = baskets_in_archive(repository, until_ms)

    def build_pairs(self, seed: int) -> Tensor:
        """Pairs (M, 2) of table rows."""
        return build_pairs(self._baskets, self._table, seed)

    def train(self, pairs: Tensor, config: AlignmentTrainingConfig, progress: Callable[[int, float], None]) -> AlignmentHead:
        """A trained head."""
        return train_head(self._table.vectors, pairs, config, progress)

    def publish(self, head: AlignmentHead, pairs: Tensor) -> Artifact:
        """Publish a trained head."""
        last_ms = self._baskets[-1].time_ms
        facts = {"trained_until_ms": last_ms + 1, "pairs": len(pairs)}
        return head.publish(self._models_dir, to_day(last_ms), self._space_id, facts)
