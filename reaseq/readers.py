"""What the stages and the ranking service read features and text through; the feature store and the encoder implement it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reaseq.records import ItemFeatures, UserFeatures


class ItemReader(Protocol):
    """Reads the current feature records of items."""

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        """The records of the items that are known, by id."""
        ...


class UserReader(Protocol):
    """Reads the current feature records of users."""

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        """The records of the users that are known, by id."""
        ...


class FeatureReader(ItemReader, UserReader, Protocol):
    """Reads both."""


class TextEncoder(Protocol):
    """Encodes texts as unit vectors of one space."""

    space_id: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, D)."""
        ...
