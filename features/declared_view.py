"""The declared attributes of items as a feature view of their own, computed when it is read.

Feast stores an item's attributes as one text. This view gives each declared one a name and a type, so that Feast's command
line, its web page and `get_online_features` know it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from feast import FeatureView, Field, OnDemandFeatureView
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Array, FeastType, Float64, String

from features.definitions import item_representation
from reaseq.declaration import Attribute, Category, Declaration, Tags

NAME = "item_attributes"


def build_attribute_views(declaration: Declaration, stored: Sequence[FeatureView]) -> list[OnDemandFeatureView]:
    """The view of the declared attributes of items, over the stored view that has their text; none if none is declared."""
    attributes = tuple(declaration.item_attributes)
    if not attributes:
        return []
    view = OnDemandFeatureView(
        name=NAME,
        sources=[view for view in stored if view.name == item_representation.name],
        schema=[Field(name=to_feature_name(attribute.name), dtype=_feast_type(attribute)) for attribute in attributes],
        mode="python",
        feature_transformation=PythonTransformation(_build_reader(attributes), f"the values of {NAME}"),
        description="The attributes of items that the shop declares",
        # Feast takes no descriptions of the features themselves in such a view.
        tags={to_feature_name(attribute.name): attribute.description for attribute in attributes if attribute.description},
    )
    return [view]


def to_feature_name(attribute_name: str) -> str:
    """The name of an attribute in Feast."""
    return attribute_name.replace(" ", "_")


def _build_reader(attributes: Sequence[Attribute]) -> Callable[[Mapping[str, Sequence[str | None]]], dict[str, list[Any]]]:
    """The function that reads the attributes; Feast wants one with a name."""
    example = {attribute.name: "1" for attribute in attributes}  # every kind reads it

    def read_attributes(inputs: Mapping[str, Sequence[str | None]]) -> dict[str, list[Any]]:
        items = [_decode(text, example) for text in inputs["attributes"]]
        return {
            to_feature_name(attribute.name): [attribute.plain(item.get(attribute.name, "")) for item in items]
            for attribute in attributes
        }

    return read_attributes


def _decode(text: str | None, example: dict[str, str]) -> dict[str, str]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, str])
    except msgspec.DecodeError:  # when the view is registered, Feast calls it with text of its own to learn its types
        return example


def _feast_type(attribute: Attribute) -> FeastType:
    if isinstance(attribute, Tags):
        return Array(String)
    return String if isinstance(attribute, Category) else Float64
