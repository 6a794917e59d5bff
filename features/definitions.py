"""Feast definitions: entities, feature views, and the ranker's feature service.

Long arrays are packed into one binary column (see `features.array_codec`). The archive's `version_timestamp` is the event time
plus the revision in microseconds: it breaks ties between rows of one event time in Feast's joins.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bytes, Float64, Int64, PrimitiveFeastType, String

ITEM_KEY = "item_id"
USER_KEY = "user_id"
ITEM_PART_KEY = "item_part_id"

item = Entity(name="item", join_keys=[ITEM_KEY], value_type=ValueType.STRING, description="A product of the catalog")
user = Entity(name="user", join_keys=[USER_KEY], value_type=ValueType.STRING, description="A person who acts on items")
item_part = Entity(
    name="item_part",
    join_keys=[ITEM_PART_KEY],
    value_type=ValueType.STRING,
    description="A product and a partition of `events`, as in 3/product: what the events there say about it",
)


def build_views(archive_dir: Path) -> tuple[FeatureView, FeatureView, FeatureView, FeatureView, FeatureView]:
    """Build the feature views over an archive, in the order of VIEWS."""
    return (
        _view(
            archive_dir,
            "item_representation",
            item,
            "Item features of the ranker: vector, claims as shared ids, side features",
            status=String,
            listed_ms=Int64,
            seller_id=String,
            title=String,
            attributes=String,
            price=Float64,
            space_id=String,
            vector=Bytes,
            content=String,
            fingerprint=String,
            claim_ids=Bytes,
            claim_confidences=Bytes,
            revision=Int64,
        ),
        _view(
            archive_dir,
            "item_knowledge",
            item,
            "The structured product knowledge behind the claims, as JSON",
            knowledge=String,
            revision=Int64,
        ),
        _view(
            archive_dir,
            "user_history",
            user,
            "A user's latest behaviors",
            history=Bytes,
            revision=Int64,
        ),
        _view(
            archive_dir,
            "user_inferred",
            user,
            "Behaviors inferred for a user, which the log never saw",
            inferred=Bytes,
            model=String,
            as_of_ms=Int64,
            events_seen=Int64,
            latent=Bytes,
            revision=Int64,
        ),
        _view(
            archive_dir,
            "item_aggregates",
            item_part,
            "Counts of a product's events by tiles of time; add up the rows of all sources",
            item_id=String,
            source=String,
            applied_offset=Int64,
            applied_ms=Int64,
            earlier_ms=Int64,
            tiles=Bytes,
            revision=Int64,
        ),
    )


def build_service(views: Sequence[FeatureView]) -> FeatureService:
    """Build the feature service that the ranker reads."""
    read = {view.name for view in (item_representation, user_history, user_inferred)}
    ranker_views = [view for view in views if view.name in read]
    return FeatureService(name="ranking", features=ranker_views, description="The features that the ranker reads")


def join_key(view: FeatureView) -> str:
    """The entity id column of a view. Feast itself knows it only after `apply`."""
    return _JOIN_KEYS[view.entities[0]]


def _view(archive_dir: Path, name: str, entity: Entity, description: str, **schema: PrimitiveFeastType) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),  # features do not expire: an old history is still the history
        schema=[Field(name=feature, dtype=dtype) for feature, dtype in schema.items()],
        source=FileSource(
            name=f"{name}_archive",
            path=str(archive_dir / name / "*" / "*.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="version_timestamp",
        ),
        online=True,
        description=description,
    )


_JOIN_KEYS = {item.name: ITEM_KEY, user.name: USER_KEY, item_part.name: ITEM_PART_KEY}

# For code that needs only names and schemas. `build_views` binds them to a real archive folder.
VIEWS = item_representation, item_knowledge, user_history, user_inferred, item_aggregates = build_views(Path("archive"))
