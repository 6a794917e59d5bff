"""The published message schemas: a change must keep records already on the topics readable."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streams.delivery.publish_schemas import MESSAGES, schema_file

GOLDEN = Path(__file__).with_name("golden")
LOOSER = {"maxLength": max, "maximum": max, "maxProperties": max, "minLength": min, "minimum": min, "exclusiveMinimum": min}


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
def test_schema_is_compatible_with_the_published_one(message: type[msgspec.Struct]) -> None:
    published = json.loads(schema_file(message).read_text())

    assert incompatibilities(published, json.loads(json.dumps(msgspec.json.schema(message)))) == []


@pytest.mark.parametrize("message", MESSAGES)
def test_published_schema_is_current(message: type[msgspec.Struct]) -> None:
    assert json.loads(schema_file(message).read_text()) == json.loads(json.dumps(msgspec.json.schema(message)))


@pytest.mark.parametrize("message", MESSAGES)
def test_message_of_the_first_release_is_still_readable(message: type[msgspec.Struct]) -> None:
    golden = (GOLDEN / schema_file(message).name).read_bytes()

    assert isinstance(msgspec.json.decode(golden, type=message), message)


@pytest.mark.parametrize("message", MESSAGES)
def test_field_of_a_later_release_is_ignored(message: type[msgspec.Struct]) -> None:
    golden = json.loads((GOLDEN / schema_file(message).name).read_bytes())

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
