"""The items whose vectors are closest to an item's."""

from dataclasses import dataclass

from features.repository import FeatureRepository
from pipelines.catalog import load_item_table
from reaseq.artifacts import current, is_published
from reaseq.errors import CatalogError
from reaseq.representation.semantic_ids import KIND, Codebook, format_semantic_id, semantic_id
from reaseq.settings import Settings


@dataclass(frozen=True)
class CatalogNeighbor:
    """An item near another one. The item itself is its own nearest neighbor."""

    item_id: str
    title: str
    cosine: float
    shared_claims: int
    semantic_id: str  # empty if no codebook is published


def find_neighbors(settings: Settings, item_id: str, count: int) -> tuple[str, list[CatalogNeighbor]]:
    """The embedding space, and the item with its `count` nearest neighbors. Raises CatalogError if the item is unknown."""
    repository = FeatureRepository(settings)
    items = load_item_table(repository)
    table = items.snapshot
    if item_id not in table.index:
        raise CatalogError(f"the {settings.store.profile} feature store in {settings.state_dir} has no item {item_id!r}")
    row = table.index[item_id]
    digits = None
    if is_published(settings.models_dir, KIND):
        digits = Codebook.load(current(settings.models_dir, KIND)).encode(table.vectors.numpy(), items.space_id)
    nearest = [(row, 1.0), *table.neighbors(row, count)]
    records = repository.read_items([table.ids[other] for other, _ in nearest])
    claims = table.get_claims(row)
    neighbors = []
    for other, cosine in nearest:
        other_id = table.ids[other]
        code = "" if digits is None else format_semantic_id(semantic_id(other_id, digits[other]))
        neighbors.append(
            CatalogNeighbor(other_id, records[other_id].title, cosine, len(claims & table.get_claims(other)), code)
        )
    return items.space_id, neighbors
