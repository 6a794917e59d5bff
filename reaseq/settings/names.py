"""The names of settings in the environment, and what is no setting although it looks like one."""

import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_origin

from pydantic import BaseModel

PREFIX = "REASEQ_"
JSON_EXAMPLES: dict[Any, str] = {list: '["…", "…"]', dict: '{"…": 1}'}
# Read by the launchers, by Feast's profiles and by the sources of the settings themselves.
OTHER_NAMES = {
    "REASEQ_SECRETS_DIR",
    "REASEQ_KAFKA_LIBS",
    "REASEQ_VLLM_ENVS",
    "REASEQ_REGISTRY",
    "REASEQ_ONLINE_DB",
    "REASEQ_REDIS_URL",
    "REASEQ_REDIS_TIMEOUT_S",
    "REASEQ_REDIS_REPLICAS",
}


def settings_by_name(group: type[BaseModel], prefix: str = PREFIX) -> Iterator[tuple[str, Any]]:
    """The name and type of every setting, and of every group of settings, which may be given as one JSON object."""
    for name, field in group.model_fields.items():
        full, kind = f"{prefix}{name}".upper(), field.annotation
        yield full, kind
        if _is_group(kind):
            yield from settings_by_name(kind, f"{full}__")  # type: ignore[arg-type]


def find_unknown(given: Iterable[str], root: type[BaseModel]) -> list[str]:
    """For each of the names that begins like a setting and is none, a sentence with the nearest setting."""
    kinds = dict(settings_by_name(root))
    known = kinds.keys() | OTHER_NAMES
    members = tuple(f"{name}__" for name, kind in kinds.items() if get_origin(kind) is dict)  # may be given one by one
    sentences = []
    for name in sorted({name.upper() for name in given}):
        if name.startswith(PREFIX) and name not in known and not name.startswith(members):
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)
            sentences.append(f"{name} is no setting; the nearest is {nearest[0]}")
    return sentences


def find_invalid_json(given: Mapping[str, str], root: type[BaseModel]) -> list[str]:
    """For each of the variables that must be JSON and is not, a sentence that names it."""
    kinds = dict(settings_by_name(root))
    sentences = []
    for name, value in given.items():
        kind = kinds.get(name.upper())
        if value and (get_origin(kind) in JSON_EXAMPLES or _is_group(kind)):
            try:
                json.loads(value)
            except ValueError:
                example = JSON_EXAMPLES[get_origin(kind) or dict]
                sentences.append(f"{name.upper()}: must be JSON, such as {example}")
    return sentences


def name_of(location: tuple[int | str, ...]) -> str:
    """The name of the setting in which validation found an error."""
    names = [part for part in location if isinstance(part, str)]
    return f"{PREFIX}{'__'.join(names)}".upper()


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
