"""The catalog: every listed item of the feature store."""

from collections import Counter
from collections.abc import Iterator

import structlog

from features.repository import FeatureRepository
from reaseq import float16
from reaseq.aggregates import BUILT_IN, AggregateTable
from reaseq.declaration import load_declaration
from reaseq.errors import CatalogError
from reaseq.records import ItemFeatures
from reaseq.representation.item_table import ItemTable
from streams.item_aggregates_feed import ItemAggregatesFeed

log = structlog.get_logger()


def scan_listed_items(repository: FeatureRepository) -> Iterator[ItemFeatures]:
    """Every item in the feature store that is not delisted."""
    return (record for page in repository.scan_items() for record in page if record.status != "delisted")


def load_item_table(repository: FeatureRepository) -> ItemTable:
    """The listed items as a table, in the space of most of them. Raises CatalogError if there are none."""
    records = list(scan_listed_items(repository))
    if not records:
        settings = repository.settings
        raise CatalogError(
            f"the {settings.store.profile} feature store in {settings.state_dir} has no items: run `reaseq demo`, or onboard "
            "your catalog with `reaseq backfill items`"
        )
    [(layout, _)] = Counter((record.space_id, len(record.vector)) for record in records).most_common(1)
    space_id, vector_bytes = layout
    declaration = load_declaration(repository.settings.declaration_file)
    dim = vector_bytes // float16.FLOAT16.itemsize
    table = ItemTable(repository.vocabulary, space_id, dim, declaration=declaration)
    for rejection in table.apply(records):
        log.warning("item_skipped", item_id=rejection.record.item_id, error=str(rejection.error))
    return table


def load_aggregate_table(repository: FeatureRepository, items: ItemTable) -> AggregateTable:
    """The stored aggregates of the items in a table."""
    aggregates = AggregateTable(BUILT_IN)
    feed = ItemAggregatesFeed(aggregates, items, waiting_limit=0)
    for page in repository.scan_aggregates():
        feed.apply(page)
    return aggregates
