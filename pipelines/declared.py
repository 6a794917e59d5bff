"""What is declared, what the current ranker makes of it, and how many items have it."""

from collections.abc import Sequence
from dataclasses import dataclass

from features.repository import FeatureRepository
from pipelines.catalog import scan_listed_items
from reaseq.artifacts import current, is_published
from reaseq.declaration import Attribute, Field
from reaseq.model_artifacts import load_sizes
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.model import RankerConfig
from reaseq.settings import Settings


@dataclass(frozen=True)
class AttributeReport:
    """One declared attribute, described for humans."""

    name: str
    kind: str
    details: str
    if_missing: str  # what happens to an item without it
    read: str  # whether the current ranker reads it
    coverage: str  # share of the items that have it, if that was asked for


def describe_attributes(attributes: Sequence[Attribute], settings: Settings, coverage: bool) -> list[AttributeReport]:
    """Declared attributes of items; with `coverage`, every item of the feature store is read."""
    shares = _measure_coverage(settings, attributes) if coverage else [""] * len(attributes)
    trained = _read_by_ranker(settings)
    return [
        AttributeReport(a.name, a.kind, a.details, _describe_missing(a), _describe_reading(a.field, trained), share)
        for a, share in zip(attributes, shares, strict=True)
    ]


def _read_by_ranker(settings: Settings) -> tuple[Field, ...] | None:
    if not is_published(settings.models_dir, RANKER):
        return None
    return load_sizes(current(settings.models_dir, RANKER), RankerConfig).attributes


def _describe_missing(attribute: Attribute) -> str:
    return "dead letter" if attribute.required else f"{attribute.default!r}" if attribute.default else ""


def _describe_reading(field: Field, trained: tuple[Field, ...] | None) -> str:
    if trained is None:
        return "no ranker yet"
    if field in trained:
        return "yes"
    changed = any(field.name == other.name for other in trained)
    return "no, its encoding changed: train again" if changed else "after the next training"


def _measure_coverage(settings: Settings, attributes: Sequence[Attribute]) -> list[str]:
    items, having = 0, [0] * len(attributes)
    for record in scan_listed_items(FeatureRepository(settings)):
        items += 1
        for index, attribute in enumerate(attributes):
            text = record.attributes.get(attribute.name, "")
            having[index] += bool(text) and attribute.read(text) is not None
    return [f"{count / items:.1%} of {items}" if items else "no items" for count in having]
