"""The feature record of an item's aggregates, one for each source of events: readers add them up."""

import msgspec

from reaseq.records.event_deltas import Source
from reaseq.records.fields import Count, Id, Int64, TimeMs, Version


class ItemAggregates(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="item-aggregates.1"):
    """Aggregates of one item, from the events of one source, see `to_source`.

    The newest record wins, by (event time, deltas, row content).

    `deltas` is the number of deltas that have been applied, and the next three fields are the position in its partition up to
    which they have been: see `reaseq.aggregates.fold.Applied`. `tiles` are packed by `reaseq.aggregates.pack_tiles`.
    """

    item_id: Id
    source: Source
    event_time_ms: TimeMs
    deltas: Count
    applied_offset: Int64
    applied_ms: Int64
    earlier_ms: Int64
    tiles: bytes

    @property
    def revision(self) -> int:
        """Order among records with equal event time: by deltas applied."""
        return self.deltas

    @property
    def version(self) -> Version:
        """The greater of two versions belongs to the newer record of the item and source."""
        return self.event_time_ms, self.revision

    @property
    def entity_id(self) -> str:
        """The source and the item, as in `3/item`."""
        return to_part_id(self.source, self.item_id)


def to_part_id(source: str, item_id: str) -> str:
    """The entity id of the record of an item and a source."""
    return f"{source}/{item_id}"
