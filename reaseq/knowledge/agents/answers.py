"""The shape of each agent's answer: one pydantic model is both the server's grammar and our own check of what came back."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, create_model

from reaseq.knowledge.vocabulary import Group

CONFIDENCES = {"certain": 0.95, "likely": 0.8, "possible": 0.6}  # in words, which models judge better than numbers
EVIDENCE_LIMIT_CHARS = 80
VALUE_LIMIT_CHARS = 64
PHRASE_LIMIT_CHARS = 40
PHRASES_LIMIT = 5
NOTE_LIMIT_CHARS = 120
CLAIM_NUMBER_LIMIT = 99
OBJECTIONS_LIMIT = 40
PROFILE_LIMIT_CHARS = 240
OVERRUN = 4  # a list may be so many times too long and still be read: what is too much is cut and counted

Confidence = Literal["certain", "likely", "possible"]


class Strict(BaseModel):
    """Refuses fields that it does not know, and values that are not of the type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class DraftClaim(Strict):
    """A claim as an agent makes it. The value may lie outside the vocabulary where the server has no grammar."""

    value: str = Field(max_length=VALUE_LIMIT_CHARS)
    confidence: Confidence
    evidence: str = Field(default="", max_length=EVIDENCE_LIMIT_CHARS)


class Objection(Strict):
    """What the critic has against one claim."""

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


def _thinking(limit_chars: int) -> Any:
    return Annotated[str, Field(max_length=limit_chars)]


def draft_model(agent: str, groups: tuple[Group, ...], reasoning_limit_chars: int) -> type[Strict]:
    """The answer of an agent that makes claims: `reasoning`, its free texts, and a list of claims for each of its groups."""
    fields: dict[str, Any] = {"reasoning": _thinking(reasoning_limit_chars), **FREE_TEXT[agent]}
    for group in groups:
        bounds = Field(max_length=group.most * OVERRUN)
        fields[group.name] = Annotated[list[DraftClaim], bounds, WithJsonSchema(_claims_schema(group))]
    return create_model(f"{agent}_answer", __base__=Strict, **fields)


def critic_model(reasoning_limit_chars: int) -> type[Strict]:
    """The critic's answer: `reasoning` and `objections`."""
    objections = Annotated[list[Objection], Field(max_length=OBJECTIONS_LIMIT)]
    return create_model(
        "critic_answer", __base__=Strict, reasoning=_thinking(reasoning_limit_chars), objections=(objections, ...)
    )


def synthesis_model(reasoning_limit_chars: int) -> type[Strict]:
    """The synthesis: `reasoning` and `profile`."""
    profile = Annotated[str, Field(max_length=PROFILE_LIMIT_CHARS)]
    return create_model("synthesis_answer", __base__=Strict, reasoning=_thinking(reasoning_limit_chars), profile=(profile, ...))


def grammar(answer: type[Strict]) -> str:
    """The JSON schema that the server holds its output to, as JSON. Fields are written in its order: the thinking first."""
    return json.dumps(answer.model_json_schema())


def parse(answer: type[Strict], text: str) -> tuple[Strict | None, str]:
    """The answer in `text`, or None and the reason for which it is rejected."""
    try:
        return answer.model_validate_json(text), ""
    except ValidationError as error:
        kinds = {fault["type"] for fault in error.errors(include_url=False, include_input=False, include_context=False)}
        return None, "malformed_json" if "json_invalid" in kinds else "invalid_answer"


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
