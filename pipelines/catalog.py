"""The catalog: every listed item of the feature store."""

from collections.abc import Iterator

from features.repository import FeatureRepository
from reaseq import float16
from reaseq.errors import CatalogError
from reaseq.records import ItemFeatures
from reaseq.representation.item_table import ItemTable


def scan_listed_items(repository: FeatureRepository) -> Iterator[ItemFeatures]:
    """Every item in the feature store that is not delisted."""
    return (record for page in repository.scan_items() for record in page if record.status != "delisted")


def load_item_table(repository: FeatureRepository) -> ItemTable:
    """The listed items as a table. Raises CatalogError if there are none."""
    records = list(scan_listed_items(repository))
    if not records:
        settings = repository.settings
        raise CatalogError(
            f"the {settings.store.profile} feature store in {settings.state_dir} has no items: run `reaseq demo`, or onboard "
            "your catalog with `reaseq backfill items`"
        )
    table = ItemTable(repository.vocabulary, records[0].space_id, len(float16.unpack(records[0].vector)))
    table.apply(records)
    return table
