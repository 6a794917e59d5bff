"""What Feast knows: entities, feature views and the feature service of the ranker.

Long arrays are packed into one binary column (see `features.array_codec`). The archive's `version_timestamp` is the event time
plus the revision in microseconds: Feast's tie-break between rows of one event time.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bytes, Float64, Int64, PrimitiveFeastType, String

ITEM_KEY = "item_id"
USER_KEY = "user_id"

item = Entity(name="item", join_keys=[ITEM_KEY], value_type=ValueType.STRING, description="A product of the catalog")
user = Entity(name="user", join_keys=[USER_KEY], value_type=ValueType.STRING, description="A person who acts on items")


def build_views(archive_dir: Path) -> tuple[FeatureView, FeatureView, FeatureView, FeatureView]:
    """The feature views over an archive: item representation and knowledge, user history and inferred behaviors."""
    return (
        _view(
            archive_dir,
            "item_representation",
            item,
            "What the ranker reads of an item: vector, claims as shared ids, side features",
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
            "What a user did, latest behaviors",
            history=Bytes,
            revision=Int64,
        ),
        _view(
            archive_dir,
            "user_inferred",
            user,
            "What a user plausibly did or will do, though the log never saw it",
            inferred=Bytes,
            model=String,
            as_of_ms=Int64,
            events_seen=Int64,
            latent=Bytes,
            revision=Int64,
        ),
    )


def build_service(views: Sequence[FeatureView]) -> FeatureService:
    """What the ranker reads."""
    read = [view for view in views if view.name != item_knowledge.name]
    return FeatureService(name="ranking", features=read, description="What the ranker reads")


def join_key(view: FeatureView) -> str:
    """The column of the entity's id in a view (Feast itself knows it only after `apply`)."""
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


_JOIN_KEYS = {item.name: ITEM_KEY, user.name: USER_KEY}

# Names and schemas for code that reads no archive through them; `build_views` places them in one.
VIEWS = item_representation, item_knowledge, user_history, user_inferred = build_views(Path("archive"))
