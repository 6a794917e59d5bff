"""Item titles, for endpoints that show item ids."""

from collections.abc import Sequence

from features.repository import FeatureRepository


def read_titles(store: FeatureRepository, item_ids: Sequence[str]) -> dict[str, str]:
    """Titles by item id, for the items that the store knows. Raises StoreUnavailable."""
    return {item_id: record.title for item_id, record in store.read_items(list(item_ids)).items()}
