"""Items by words: those on sale whose listings come closest to what the words mean."""

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
class Match:
    """An item on sale, and how close it comes."""

    item_id: str
    title: str
    cosine: float


class Search:
    """Finds items. The encoder is loaded when somebody first searches, which takes seconds."""

    def __init__(self, settings: EncoderSettings, table: ItemTable, store: FeatureRepository) -> None:
        self._settings = settings
        self._table = table
        self._store = store

    def closest(self, words: str) -> Sequence[Match]:
        """The best matches, the closest first.

        Raises StoreUnavailable, and SpaceMismatch where the items were encoded by another encoder than the one set here.
        """
        if self._encoder.space_id != self._table.space_id:
            raise SpaceMismatch(
                f"the encoder set here is of {self._encoder.space_id!r}, the items are of {self._table.space_id!r}: "
                "set REASEQ_ENCODER__* as the workers have it"
            )
        table = self._table.snapshot
        near = table.nearest(torch.from_numpy(self._encoder.encode([words])[0]), MATCHES)
        titles = read_titles(self._store, [table.ids[row] for row, _ in near])
        return [Match(table.ids[row], titles[table.ids[row]], cosine) for row, cosine in near if table.ids[row] in titles]

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._settings)
