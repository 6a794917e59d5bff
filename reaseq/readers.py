"""Interfaces to features and text vectors; the feature store and the encoder implement them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reaseq.records import ItemFeatures, UserFeatures


class ItemLookup(Protocol):
    """The items that have been onboarded."""

    def knows(self, item_id: str) -> bool:
        """Whether the item has been onboarded."""
        ...


class ItemReader(Protocol):
    """Reads the current feature records of items."""

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        """Records by item id; unknown items are left out."""
        ...


class UserReader(Protocol):
    """Reads the current feature records of users."""

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        """Records by user id; unknown users are left out."""
        ...


class FeatureReader(ItemReader, UserReader, Protocol):
    """Reads the current feature records of items and users."""


class TextEncoder(Protocol):
    """Encodes texts as unit vectors in the embedding space `space_id`."""

    space_id: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, D)."""
        ...
