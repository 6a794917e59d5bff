"""Maps feature records to rows of the feature views, and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from feast import FeatureView

from features import definitions as views
from features.array_codec import pack_history, pack_inferred, unpack_history, unpack_inferred
from features.plain_values import Plain
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import (
    STATUS_RANK,
    FeatureRecord,
    Inferred,
    ItemAggregates,
    ItemFeatures,
    ProductKnowledge,
    UserFeatures,
    read_revision,
)


class Row(NamedTuple):
    """One row of one view: plain values by feature name. Features without a value are left out."""

    view: FeatureView
    entity_id: str
    event_time_ms: int
    values: dict[str, Plain]


def to_rows(record: FeatureRecord, vocabulary: Vocabulary) -> list[Row]:
    """The rows of a feature record, one per view."""
    return KINDS[type(record)].to_rows(record, vocabulary)


def rows_by_view(records: Sequence[FeatureRecord], vocabulary: Vocabulary) -> dict[str, list[Row]]:
    """The rows of several records, grouped by view name."""
    by_view: dict[str, list[Row]] = {}
    for record in records:
        for row in to_rows(record, vocabulary):
            by_view.setdefault(row.view.name, []).append(row)
    return by_view


def item_rows(record: ItemFeatures, vocabulary: Vocabulary) -> list[Row]:
    """The rows of an item record. Claims are stored as the vocabulary's claim ids."""
    claim_ids, confidences = vocabulary.claim_ids(record.knowledge)
    representation: dict[str, Plain] = {
        "status": record.status,
        "listed_ms": record.listed_ms,
        "seller_id": record.seller_id,
        "title": record.title,
        "attributes": msgspec.json.encode(record.attributes, order="sorted").decode(),
        "space_id": record.space_id,
        "vector": record.vector,
        "content": record.content,
        "fingerprint": record.fingerprint,
        "claim_ids": claim_ids.tobytes(),
        "claim_confidences": confidences.tobytes(),
        "revision": record.revision,
    }
    if record.price is not None:
        representation["price"] = record.price
    knowledge: dict[str, Plain] = {
        "knowledge": msgspec.json.encode(record.knowledge).decode(),
        "revision": record.revision,
    }
    return [
        Row(views.item_representation, record.item_id, record.event_time_ms, representation),
        Row(views.item_knowledge, record.item_id, record.event_time_ms, knowledge),
    ]


def user_rows(record: UserFeatures) -> list[Row]:
    """The rows of a user record."""
    inferred = record.inferred
    inferred_values: dict[str, Plain] = {
        "inferred": pack_inferred(inferred),
        "model": inferred.model,
        "as_of_ms": inferred.as_of_ms,
        "events_seen": inferred.events_seen,
        "latent": inferred.latent,
        "revision": record.revision,
    }
    history: dict[str, Plain] = {"history": pack_history(record.history), "revision": record.revision}
    return [
        Row(views.user_history, record.user_id, record.event_time_ms, history),
        Row(views.user_inferred, record.user_id, record.event_time_ms, inferred_values),
    ]


def item_record(
    item_id: str, event_time_ms: int, representation: Mapping[str, Plain], knowledge: Mapping[str, Plain]
) -> ItemFeatures:
    """Build an item record from its rows: the inverse of `item_rows`."""
    price = representation.get("price")
    status, revision = representation["status"], representation["revision"]
    return ItemFeatures(
        item_id=item_id,
        event_time_ms=event_time_ms,
        listed_ms=representation["listed_ms"],  # type: ignore[arg-type]
        status=status,  # type: ignore[arg-type]
        reasoned_again=revision - STATUS_RANK[status],  # type: ignore[index, operator]
        seller_id=representation["seller_id"],  # type: ignore[arg-type]
        title=representation["title"],  # type: ignore[arg-type]
        attributes=msgspec.json.decode(str(representation["attributes"]), type=dict[str, str]),
        price=float(price) if price is not None else None,
        space_id=representation["space_id"],  # type: ignore[arg-type]
        vector=representation["vector"],  # type: ignore[arg-type]
        content=representation["content"],  # type: ignore[arg-type]
        fingerprint=representation["fingerprint"],  # type: ignore[arg-type]
        knowledge=msgspec.json.decode(str(knowledge["knowledge"]), type=ProductKnowledge | None),
    )


def user_record(user_id: str, event_time_ms: int, history: Mapping[str, Plain], inferred: Mapping[str, Plain]) -> UserFeatures:
    """Build a user record from its rows: the inverse of `user_rows`."""
    item_ids, confidences = unpack_inferred(inferred["inferred"])  # type: ignore[arg-type]
    events_seen, unknown_items = read_revision(int(history["revision"]))
    return UserFeatures(
        user_id=user_id,
        event_time_ms=event_time_ms,
        events_seen=events_seen,
        history=unpack_history(history["history"]),  # type: ignore[arg-type]
        inferred=Inferred(
            item_ids=item_ids,
            confidences=confidences,
            model=inferred["model"],  # type: ignore[arg-type]
            as_of_ms=inferred["as_of_ms"],  # type: ignore[arg-type]
            events_seen=inferred["events_seen"],  # type: ignore[arg-type]
            latent=inferred["latent"],  # type: ignore[arg-type]
            unknown_items=unknown_items,
        ),
    )


def aggregate_rows(record: ItemAggregates) -> list[Row]:
    """The row of an item's aggregates."""
    values: dict[str, Plain] = {
        "item_id": record.item_id,
        "source": record.source,
        "applied_offset": record.applied_offset,
        "applied_ms": record.applied_ms,
        "earlier_ms": record.earlier_ms,
        "tiles": record.tiles,
        "revision": record.revision,
    }
    return [Row(views.item_aggregates, record.entity_id, record.event_time_ms, values)]


def aggregate_record(part_id: str, event_time_ms: int, values: Mapping[str, Plain]) -> ItemAggregates:
    """Build the record of an item's aggregates from its row: the inverse of `aggregate_rows`."""
    return ItemAggregates(
        item_id=values["item_id"],  # type: ignore[arg-type]
        source=values["source"],  # type: ignore[arg-type]
        event_time_ms=event_time_ms,
        deltas=values["revision"],  # type: ignore[arg-type]
        applied_offset=values["applied_offset"],  # type: ignore[arg-type]
        applied_ms=values["applied_ms"],  # type: ignore[arg-type]
        earlier_ms=values["earlier_ms"],  # type: ignore[arg-type]
        tiles=values["tiles"],  # type: ignore[arg-type]
    )


class RecordKind(NamedTuple):
    """How the records of one type are stored: the views of their rows, written and read together, and the mapping to rows."""

    views: tuple[FeatureView, ...]
    to_rows: Callable[[Any, Vocabulary], list[Row]]
    from_rows: Callable[..., Any]  # of the entity id, the event time, and the values of each view


KINDS: dict[type[FeatureRecord], RecordKind] = {
    ItemFeatures: RecordKind((views.item_representation, views.item_knowledge), item_rows, item_record),
    UserFeatures: RecordKind((views.user_history, views.user_inferred), lambda record, _: user_rows(record), user_record),
    ItemAggregates: RecordKind((views.item_aggregates,), lambda record, _: aggregate_rows(record), aggregate_record),
}
