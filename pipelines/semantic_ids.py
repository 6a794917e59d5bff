"""Semantic IDs: the store's vectors → fit a codebook → examine → publish; later, check its drift."""

from pathlib import Path

from reaseq.artifacts import Artifact, current
from reaseq.errors import CatalogError
from reaseq.representation.item_table import ItemTable
from reaseq.representation.semantic_ids import (
    KIND,
    Codebook,
    Drift,
    Fitted,
    Quality,
    drift,
    examine,
    fit,
    load_fitted,
)


class SemanticIdPipeline:
    """Fits codebooks to the listed items of the store, and publishes them."""

    def __init__(self, items: ItemTable, models_dir: Path) -> None:
        table = items.snapshot.by_id()
        listed = table.live.nonzero().flatten()
        self._models_dir = models_dir
        self._space_id = items.space_id
        self._vectors = table.vectors[listed].numpy()  # (N, D)
        self._listed_ms = table.listed_ms[listed].numpy()  # (N,)

    def fit(self, levels: int, codes: int, seed: int) -> tuple[Codebook, Fitted]:
        """A codebook and its quality. Raises CatalogError if there are fewer items than codes."""
        if len(self._vectors) < codes:
            raise CatalogError(f"{len(self._vectors)} items are too few for {codes} codes per digit: lower --codes")
        codebook = fit(self._vectors, self._space_id, levels, codes, seed)
        return codebook, examine(codebook, self._vectors, self._listed_ms, seed)

    def publish(self, codebook: Codebook, fitted: Fitted) -> Artifact:
        """Publish a fitted codebook."""
        levels, codes = len(codebook.sizes), codebook.sizes[0]
        return codebook.publish(self._models_dir, f"{levels}x{codes}", fitted)

    def check(self) -> tuple[Quality, Drift]:
        """Quality of the published codebook on today's items, and how far they have drifted."""
        artifact = current(self._models_dir, KIND)
        codebook, fitted = Codebook.load(artifact), load_fitted(artifact)
        quality = codebook.quality(self._vectors, self._space_id)
        return quality, drift(fitted, codebook, self._vectors, self._listed_ms, self._space_id)
