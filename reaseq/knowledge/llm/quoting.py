"""Hostile text in a prompt: as JSON whose strings hold no mark that a chat template could take for its own."""

import json
from typing import Any

# Chat templates mark turns with signs such as <|im_start|>, </s> or [INST], and servers read them in user text as well.
# Escaped, they are the same JSON string to a reader and no mark to a tokenizer. Brackets are also JSON's own, so the signs
# in strings first become characters for private use, which `content.clean` leaves nowhere.
_SIGNS = "<>[]|"
_HIDDEN = {ord(sign): chr(0xE000 + place) for place, sign in enumerate(_SIGNS)}
_ESCAPED = {0xE000 + place: f"\\u{ord(sign):04x}" for place, sign in enumerate(_SIGNS)}


def as_data(value: Any) -> str:
    """`value` as JSON for the user turn of a call."""
    return json.dumps(_hide(value), ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED)


def _hide(value: Any) -> Any:
    match value:
        case str():
            return value.translate(_HIDDEN)
        case dict():
            return {_hide(name): _hide(inner) for name, inner in value.items()}
        case list():
            return [_hide(inner) for inner in value]
        case _:
            return value
