"""When to infer a user's behaviors again."""

from collections.abc import Sequence
from typing import Protocol

from reaseq.readers import ItemLookup
from reaseq.records import UserFeatures
from reaseq.settings import BehaviorSettings

INTEREST_BEHAVIORS = 8  # the new behaviors are compared with this many behaviors before them


class Catalog(ItemLookup, Protocol):
    """The items that have been onboarded, and how similar they are."""

    def cosine(self, some: Sequence[str], others: Sequence[str]) -> float:
        """Cosine of the mean vectors of two groups of items; 1 if either group has no known item."""
        ...


def unknown_items(record: UserFeatures, catalog: ItemLookup) -> list[str]:
    """The items of the user's behaviors that have not been onboarded."""
    return [item_id for item_id in record.history.item_ids if not catalog.knows(item_id)]


def is_due(record: UserFeatures, settings: BehaviorSettings, catalog: Catalog) -> bool:
    """Whether inference is due: `min_new_events` since the last one, or fewer that shift the user's interest.

    Never within `min_interval_s` of the last inference, unless that one lacked items which have been onboarded since. Depends
    only on the record and the catalog, so that a redelivered record gets the same decision.
    """
    lacked = record.inferred.unknown_items  # usually 0, which spares looking up a whole history
    if lacked and lacked > len(unknown_items(record, catalog)):
        return True
    ids, new = record.history.item_ids, record.events_seen - record.inferred.events_seen
    if not ids or new <= 0 or record.event_time_ms - record.inferred.as_of_ms < settings.min_interval_s * 1000:
        return False
    if new >= settings.min_new_events:
        return True
    before = ids[:-new][-INTEREST_BEHAVIORS:]
    return catalog.cosine(ids[-new:], before) < settings.shift_cosine
