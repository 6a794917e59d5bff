"""When a user's behaviors are worth inferring anew."""

from collections.abc import Sequence
from typing import Protocol

from reaseq.records import UserFeatures
from reaseq.settings import BehaviorSettings

INTEREST_BEHAVIORS = 8  # of the latest before, that the present interest is read from


class Similarity(Protocol):
    """How alike items are."""

    def cosine(self, some: Sequence[str], others: Sequence[str]) -> float:
        """Cosine of the mean vectors of two groups of items; 1 where either has none that is known."""
        ...


def is_due(record: UserFeatures, settings: BehaviorSettings, items: Similarity) -> bool:
    """Whether enough has happened since the last inference: enough events, or fewer that shift the interest.

    Decided from the record alone, so a record that is seen again is decided about in the same way.
    """
    ids, new = record.history.item_ids, record.events_seen - record.inferred.events_seen
    if not ids or new <= 0 or record.event_time_ms - record.inferred.as_of_ms < settings.min_interval_s * 1000:
        return False
    if new >= settings.min_new_events:
        return True
    before = ids[:-new][-INTEREST_BEHAVIORS:]
    return items.cosine(ids[-new:], before) < settings.shift_cosine
