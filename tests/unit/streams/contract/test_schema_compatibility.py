"""The published schemas of the messages: a change must keep what is on the topics readable."""

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


def incompatibilities(old: Any, new: Any, place: str = "$") -> list[str]:
    """What a message that obeys `old` may hold and `new` rejects or ignores."""
    if not isinstance(old, dict):
        return [] if old == new else [f"{place}: {old!r} became {new!r}"]
    found = [f"{place}: {name} is newly required" for name in set(new.get("required", [])) - set(old.get("required", []))]
    for name, limit in LOOSER.items():
        if name in new and (name not in old or limit(old[name], new[name]) != new[name]):
            found.append(f"{place}: {name} was tightened")
    for name in old.keys() - LOOSER.keys() - {"required", "title", "description", "default"}:
        if name == "enum":
            found += [f"{place}: {value!r} is rejected" for value in set(old[name]) - set(new.get(name, []))]
        elif isinstance(old[name], list):
            found += [] if old[name] == new.get(name) else [f"{place}.{name} changed"]
        elif name not in new:
            found.append(f"{place}.{name} is gone")
        else:
            found += incompatibilities(old[name], new[name], f"{place}.{name}")
    return found


@pytest.mark.parametrize("message", MESSAGES)
def test_the_schema_is_compatible_with_the_published_one(message: type) -> None:
    published = json.loads((PUBLISHED / f"{tag(message)}.json").read_text())

    assert incompatibilities(published, json.loads(json.dumps(msgspec.json.schema(message)))) == []


@pytest.mark.parametrize("message", MESSAGES)
def test_the_published_schema_is_the_present_one(message: type) -> None:
    assert json.loads((PUBLISHED / f"{tag(message)}.json").read_text()) == json.loads(json.dumps(msgspec.json.schema(message)))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_first_days_is_still_read(message: type) -> None:
    golden = (GOLDEN / f"{tag(message)}.json").read_bytes()

    assert isinstance(msgspec.json.decode(golden, type=message), message)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_field_of_days_to_come_is_ignored(message: type) -> None:
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
def test_the_comparison_finds_what_breaks_readers(change: dict[str, Any], what: str) -> None:
    old = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}, "required": ["a"]}

    assert any(what in found for found in incompatibilities(old, old | change))
