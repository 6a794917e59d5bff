"""The JSON schemas of the agents' answers, for structured output: valid in OpenAI's strict mode and as a grammar of vLLM.

Strict mode requires every property and forbids further ones, so what is optional is an empty text or list. Fields are
generated in the schema's order, `reasoning` first.
"""

import json
from collections.abc import Sequence
from typing import Any

from reaseq.knowledge.vocabulary import Group

CONFIDENCES = {"certain": 0.95, "likely": 0.8, "possible": 0.6}  # LLMs judge words better than numbers
EVIDENCE_LIMIT_CHARS = 80
VALUE_LIMIT_CHARS = 64
PHRASE_LIMIT_CHARS = 40
PHRASES_LIMIT = 5
NOTE_LIMIT_CHARS = 120
CLAIM_NUMBER_LIMIT = 99
OBJECTIONS_LIMIT = 40
PROFILE_LIMIT_CHARS = 240

LIMITS = {  # stated in the prompts, since not every server enforces a schema
    "evidence_limit_chars": EVIDENCE_LIMIT_CHARS,
    "phrase_limit_chars": PHRASE_LIMIT_CHARS,
    "phrases_limit": PHRASES_LIMIT,
    "note_limit_chars": NOTE_LIMIT_CHARS,
    "profile_limit_chars": PROFILE_LIMIT_CHARS,
}

Schema = dict[str, Any]


def _text(limit_chars: int, least_chars: int = 0) -> Schema:
    least = {"minLength": least_chars} if least_chars else {}
    return {"type": "string", **least, "maxLength": limit_chars}


def _choice(values: Sequence[str]) -> Schema:
    return {"type": "string", "enum": list(values)}


def _list(items: Schema, most: int, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


CLAIM_NUMBER: Schema = {"type": "integer", "minimum": 1, "maximum": CLAIM_NUMBER_LIMIT}
CONFIDENCE = _choice(list(CONFIDENCES))
PHRASES = _list(_text(PHRASE_LIMIT_CHARS), PHRASES_LIMIT)
FREE_TEXT: dict[str, dict[str, Schema]] = {
    "demand": {},
    "attribute": {"product_type": _text(PHRASE_LIMIT_CHARS)},
    "relation": {"complements": PHRASES, "substitutes": PHRASES},
}
OBJECTION = _object({"claim": CLAIM_NUMBER, "verdict": _choice(["drop", "revise"]), "note": _text(NOTE_LIMIT_CHARS)})
CORRECTION = _object(
    {
        "claim": CLAIM_NUMBER,
        "value": _text(VALUE_LIMIT_CHARS, 1),
        "confidence": CONFIDENCE,
        "evidence": _text(EVIDENCE_LIMIT_CHARS),
    }
)


def draft_schema(agent: str, groups: Sequence[Group], reasoning_limit_chars: int) -> str:
    """The answer of a drafting agent: `reasoning`, its free-text fields, and a list of claims per group."""
    return _answer(reasoning_limit_chars, {**FREE_TEXT[agent], **{group.name: _claims(group) for group in groups}})


def critic_schema(reasoning_limit_chars: int) -> str:
    """The critic's answer: `reasoning` and `objections`."""
    return _answer(reasoning_limit_chars, {"objections": _list(OBJECTION, OBJECTIONS_LIMIT)})


def repair_schema(reasoning_limit_chars: int) -> str:
    """The answer of the repair: `reasoning` and `corrections`."""
    return _answer(reasoning_limit_chars, {"corrections": _list(CORRECTION, OBJECTIONS_LIMIT)})


def synthesis_schema(reasoning_limit_chars: int) -> str:
    """The answer of the synthesis: `reasoning` and `profile`."""
    return _answer(reasoning_limit_chars, {"profile": _text(PROFILE_LIMIT_CHARS)})


def _answer(reasoning_limit_chars: int, properties: dict[str, Schema]) -> str:
    return json.dumps(_object({"reasoning": _text(reasoning_limit_chars), **properties}))


def _claims(group: Group) -> Schema:
    evidence = {"evidence": _text(EVIDENCE_LIMIT_CHARS, least_chars=1)} if group.evidence_required else {}
    claim = _object({"value": _choice(list(group.values)), "confidence": CONFIDENCE, **evidence})
    return _list(claim, group.most, group.least)
