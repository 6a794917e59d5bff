"""Search by meaning: items on sale whose content vectors are closest to the embedding of a query."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from features.repository import FeatureRepository
from reaseq.errors import SpaceMismatch
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import ItemTable
from reaseq.settings import EncoderSettings
from serving.console.titles import read_titles

MATCHES = 12


@dataclass(frozen=True)
class SearchMatch:
    """An item on sale, and its similarity to the query."""

    item_id: str
    title: str
    cosine: float


class ItemSearch:
    """Searches the item table. The first search loads the encoder, which takes seconds."""

    def __init__(self, settings: EncoderSettings, table: ItemTable, store: FeatureRepository) -> None:
        self._settings = settings
        self._table = table
        self._store = store

    def search(self, words: str) -> Sequence[SearchMatch]:
        """The best matches, closest first.

        Raises StoreUnavailable, and SpaceMismatch if the items were encoded by another encoder than this service's.
        """
        if self._encoder.space_id != self._table.space_id:
            raise SpaceMismatch(
                f"this service's encoder has space {self._encoder.space_id!r}, but the items have {self._table.space_id!r}: "
                "set REASEQ_ENCODER__* to the workers' values"
            )
        table = self._table.snapshot
        nearest = table.nearest(torch.from_numpy(self._encoder.encode([words])[0]), MATCHES)
        titles = read_titles(self._store, [table.ids[row] for row, _ in nearest])
        matches = [(table.ids[row], cosine) for row, cosine in nearest]
        return [SearchMatch(item_id, titles[item_id], cosine) for item_id, cosine in matches if item_id in titles]

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._settings)
