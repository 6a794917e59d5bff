"""When to infer a user's behaviors again."""

from collections.abc import Sequence
from typing import Protocol

from reaseq.records import UserFeatures
from reaseq.settings import BehaviorSettings

INTEREST_BEHAVIORS = 8  # the new behaviors are compared with this many behaviors before them


class Similarity(Protocol):
    """Measures how similar items are."""

    def cosine(self, some: Sequence[str], others: Sequence[str]) -> float:
        """Cosine of the mean vectors of two groups of items; 1 if either group has no known item."""
        ...


def is_due(record: UserFeatures, settings: BehaviorSettings, items: Similarity) -> bool:
    """Whether inference is due: `min_new_events` since the last one, or fewer that shift the user's interest.

    Never within `min_interval_s` of the last inference. Depends only on the record and the items' vectors, so that a
    redelivered record gets the same decision.
    """
    ids, new = record.history.item_ids, record.events_seen - record.inferred.events_seen
    if not ids or new <= 0 or record.event_time_ms - record.inferred.as_of_ms < settings.min_interval_s * 1000:
        return False
    if new >= settings.min_new_events:
        return True
    before = ids[:-new][-INTEREST_BEHAVIORS:]
    return items.cosine(ids[-new:], before) < settings.shift_cosine
