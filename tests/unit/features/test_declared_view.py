"""Declared attributes in Feast: with names and types, online and point in time, and in its registry."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.archive import Archive
from features.declared_view import NAME
from features.repository import FeatureRepository
from reaseq import float16
from reaseq.records import ItemFeatures
from reaseq.settings import Settings

DECLARATION = """
from reaseq.declaration import Category, Declaration, Flag, Number, Tags
DECLARATION = Declaration(
    item_attributes=[Category("brand", description="who makes it"), Number("pack size"), Tags("tags"), Flag("organic")]
)
"""
FEATURES = [f"{NAME}:{name}" for name in ("brand", "pack_size", "tags", "organic")]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> FeatureRepository:
    folder = tmp_path_factory.mktemp("state")
    (folder / "shop.py").write_text(DECLARATION)
    repository = FeatureRepository(Settings(state_dir=folder, declaration_file=folder / "shop.py"))
    archive = Archive(repository.settings.archive_dir, repository.vocabulary)
    archive.create()
    repository.apply()
    records = [
        listing("full", brand="Acme", tags="a, b", organic="yes", **{"pack size": "4"}),
        listing("partly", brand="Acme", **{"pack size": "four"}),
    ]
    repository.write(records)
    archive.append(records)
    return repository


def listing(item_id: str, **attributes: str) -> ItemFeatures:
    vector = float16.pack(np.ones(4) / 2)
    return ItemFeatures(
        item_id=item_id,
        event_time_ms=10**12,
        listed_ms=10**12,
        status="text",
        title="a thing",
        attributes=attributes,
        space_id="s",
        vector=vector,
    )


def test_attributes_are_read_online_by_name_and_type(repository: FeatureRepository) -> None:
    entities = [{"item_id": item_id} for item_id in ("full", "partly", "unknown")]
    found = FeatureRepository(repository.settings).feast.get_online_features(FEATURES, entities).to_dict()

    assert found["brand"] == ["Acme", "Acme", None] and found["pack_size"] == [4.0, None, None]
    assert found["tags"] == [["a", "b"], None, None] and found["organic"] == [1.0, None, None]


def test_attributes_are_read_point_in_time(repository: FeatureRepository) -> None:
    day = pd.Timedelta(days=1)
    listed = pd.Timestamp(10**12, unit="ms", tz="UTC")
    entities = pd.DataFrame({"item_id": ["full", "full"], "event_timestamp": [listed - day, listed + day]})
    found = repository.feast.get_historical_features(entities, FEATURES).to_df().sort_values("event_timestamp")

    assert found["brand"].tolist()[-1] == "Acme" and found["pack_size"].tolist()[-1] == 4.0
    assert len(found) == 1 or found["brand"].isna().tolist()[0]


def test_view_is_registered_with_descriptions_and_only_if_something_is_declared(
    repository: FeatureRepository, tmp_path: Path
) -> None:
    (view,) = repository.feast.list_on_demand_feature_views()
    assert [field.name for field in view.features] == ["brand", "pack_size", "tags", "organic"]
    assert view.tags == {"brand": "who makes it"}

    plain = FeatureRepository(Settings(state_dir=tmp_path))
    plain.apply()
    assert plain.feast.list_on_demand_feature_views() == []
