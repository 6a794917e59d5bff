"""Escapes untrusted text in a prompt: JSON whose strings contain no chat-template markers."""

import json
from typing import Any

# Chat templates delimit turns with markers such as <|im_start|>, </s> or [INST], and servers parse them in user text too.
# Escaped as \uXXXX, the JSON is equivalent but the tokenizer sees no marker. Brackets are also JSON syntax, so markers inside
# strings are first mapped to private-use characters, which `content.clean` removes from all input.
_MARKERS = "<>[]|"
_PRIVATE = {ord(marker): chr(0xE000 + index) for index, marker in enumerate(_MARKERS)}
_ESCAPED = {0xE000 + index: f"\\u{ord(marker):04x}" for index, marker in enumerate(_MARKERS)}


def as_data(value: Any) -> str:
    """`value` as JSON for the user message of a request."""
    return json.dumps(_to_private(value), ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED)


def _to_private(value: Any) -> Any:
    match value:
        case str():
            return value.translate(_PRIVATE)
        case dict():
            return {_to_private(name): _to_private(inner) for name, inner in value.items()}
        case list():
            return [_to_private(inner) for inner in value]
        case _:
            return value
