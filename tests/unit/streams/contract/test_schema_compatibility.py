"""The published message schemas: a change must keep records already on the topics readable."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reaseq.records import Event, Item, ItemFeatures, UserFeatures
from streams.contract import messages

PUBLISHED = Path(messages.__file__).with_name("schemas")
GOLDEN = Path(__file__).with_name("golden")
MESSAGES = (Item, Event, ItemFeatures, UserFeatures)
LOOSER = {"maxLength": max, "maximum": max, "maxProperties": max, "minLength": min, "minimum": min, "exclusiveMinimum": min}


def tag(message: type) -> str:
    return message.__struct_config__.tag  # type: ignore[attr-defined, no-any-return]


def incompatibilities(old: Any, new: Any, path: str = "$") -> list[str]:
    """What `old` allows in a message and `new` rejects or ignores."""
    if not isinstance(old, dict):
        return [] if old == new else [f"{path}: {old!r} became {new!r}"]
    found = [f"{path}: {name} is newly required" for name in set(new.get("required", [])) - set(old.get("required", []))]
    for name, limit in LOOSER.items():
        if name in new and (name not in old or limit(old[name], new[name]) != new[name]):
            found.append(f"{path}: {name} was tightened")
    for name in old.keys() - LOOSER.keys() - {"required", "title", "description", "default"}:
        if name == "enum":
            found += [f"{path}: {value!r} is rejected" for value in set(old[name]) - set(new.get(name, []))]
        elif isinstance(old[name], list):
            found += [] if old[name] == new.get(name) else [f"{path}.{name} changed"]
        elif name not in new:
            found.append(f"{path}.{name} is gone")
        else:
            found += incompatibilities(old[name], new[name], f"{path}.{name}")
    return found


@pytest.mark.parametrize("message", MESSAGES)
def test_schema_is_compatible_with_the_published_one(message: type) -> None:
    published = json.loads((PUBLISHED / f"{tag(message)}.json").read_text())

    assert incompatibilities(published, json.loads(json.dumps(msgspec.json.schema(message)))) == []


@pytest.mark.parametrize("message", MESSAGES)
def test_published_schema_is_current(message: type) -> None:
    assert json.loads((PUBLISHED / f"{tag(message)}.json").read_text()) == json.loads(json.dumps(msgspec.json.schema(message)))


@pytest.mark.parametrize("message", MESSAGES)
def test_message_of_the_first_release_is_still_readable(message: type) -> None:
    golden = (GOLDEN / f"{tag(message)}.json").read_bytes()

    assert isinstance(msgspec.json.decode(golden, type=message), message)


@pytest.mark.parametrize("message", MESSAGES)
def test_field_of_a_later_release_is_ignored(message: type) -> None:
    golden = json.loads((GOLDEN / f"{tag(message)}.json").read_bytes())

    msgspec.json.decode(json.dumps(golden | {"from_the_next_version": [1]}), type=message)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"required": ["a", "b"]}, "newly required"),
        ({"properties": {}}, "is gone"),
        ({"properties": {"a": {"type": "integer"}}}, "became"),
        ({"properties": {"a": {"type": "string", "maxLength": 5}}}, "tightened"),
    ],
)
def test_comparison_detects_changes_that_break_readers(change: dict[str, Any], what: str) -> None:
    old = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}, "required": ["a"]}

    assert any(what in found for found in incompatibilities(old, old | change))
