"""The schema of each agent's answer: one pydantic model is both the server's grammar and our validation."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, create_model

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
OVERRUN = 4  # a list up to this many times too long is still read; the excess is dropped and counted

Confidence = Literal["certain", "likely", "possible"]


class Strict(BaseModel):
    """Base of the answers: rejects unknown fields and values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class DraftClaim(Strict):
    """A claim as an agent returns it. Without a server-side grammar, its value may be outside the vocabulary."""

    value: str = Field(max_length=VALUE_LIMIT_CHARS)
    confidence: Confidence
    evidence: str = Field(default="", max_length=EVIDENCE_LIMIT_CHARS)


class Objection(Strict):
    """What the critic has against one claim."""  # part of the schema and so of every fingerprint: do not edit

    claim: int = Field(ge=1, le=CLAIM_NUMBER_LIMIT)
    verdict: Literal["drop", "revise"]
    note: str = Field(max_length=NOTE_LIMIT_CHARS)


Phrase = Annotated[str, Field(max_length=PHRASE_LIMIT_CHARS)]
Phrases = Annotated[list[Phrase], Field(max_length=PHRASES_LIMIT)]

FREE_TEXT: dict[str, dict[str, Any]] = {
    "demand": {},
    "attribute": {"product_type": Annotated[str, Field(max_length=PHRASE_LIMIT_CHARS)]},
    "relation": {"complements": Phrases, "substitutes": Phrases},
}


def _reasoning(limit_chars: int) -> Any:
    return Annotated[str, Field(max_length=limit_chars)]


def draft_model(agent: str, groups: tuple[Group, ...], reasoning_limit_chars: int) -> type[Strict]:
    """The answer of a drafting agent: `reasoning`, its free-text fields, and a list of claims per group."""
    fields: dict[str, Any] = {"reasoning": _reasoning(reasoning_limit_chars), **FREE_TEXT[agent]}
    for group in groups:
        bounds = Field(max_length=group.most * OVERRUN)
        fields[group.name] = Annotated[list[DraftClaim], bounds, WithJsonSchema(_claims_schema(group))]
    return create_model(f"{agent}_answer", __base__=Strict, **fields)


def critic_model(reasoning_limit_chars: int) -> type[Strict]:
    """The critic's answer: `reasoning` and `objections`."""
    objections = Annotated[list[Objection], Field(max_length=OBJECTIONS_LIMIT)]
    return create_model(
        "critic_answer", __base__=Strict, reasoning=_reasoning(reasoning_limit_chars), objections=(objections, ...)
    )


def synthesis_model(reasoning_limit_chars: int) -> type[Strict]:
    """The answer of the synthesis: `reasoning` and `profile`."""
    profile = Annotated[str, Field(max_length=PROFILE_LIMIT_CHARS)]
    return create_model(
        "synthesis_answer", __base__=Strict, reasoning=_reasoning(reasoning_limit_chars), profile=(profile, ...)
    )


def grammar(answer: type[Strict]) -> str:
    """The JSON schema for structured output, as JSON. Fields are generated in its order, `reasoning` first."""
    return json.dumps(answer.model_json_schema())


def parse(answer: type[Strict], text: str) -> tuple[Strict | None, str]:
    """Parse `text`: the answer and an empty string, or None and the reason code of the rejection."""
    try:
        return answer.model_validate_json(text), ""
    except ValidationError as error:
        kinds = {fault["type"] for fault in error.errors(include_url=False, include_input=False, include_context=False)}
        return None, "malformed_json" if "json_invalid" in kinds else "invalid_answer"


def extract_reasoning(text: str) -> str:
    """The `reasoning` field of an answer; empty if the answer cannot be parsed or has none."""
    try:
        return str(json.loads(text)["reasoning"])
    except (ValueError, LookupError, TypeError):
        return ""


def _claims_schema(group: Group) -> dict[str, Any]:
    claim: dict[str, Any] = {
        "type": "object",
        "properties": {
            "value": {"enum": list(group.values)},
            "confidence": {"enum": list(CONFIDENCES)},
            "evidence": {"type": "string", "minLength": 1, "maxLength": EVIDENCE_LIMIT_CHARS},
        },
        "required": ["value", "confidence"] + (["evidence"] if group.evidence_required else []),
        "additionalProperties": False,
    }
    return {"type": "array", "items": claim, "minItems": group.least, "maxItems": group.most}
