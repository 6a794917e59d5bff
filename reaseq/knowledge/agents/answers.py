"""Tolerant reading of the agents' answers: one slip costs one claim, never the whole answer.

Servers without structured output wrap the object in prose, fences or thoughts, and models write values in another case, leave
empty groups out, or list too much. What cannot be read as a claim becomes one that the guard drops and counts.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reaseq.knowledge.agents.schemas import (
    CONFIDENCES,
    EVIDENCE_LIMIT_CHARS,
    FREE_TEXT,
    NOTE_LIMIT_CHARS,
    PHRASE_LIMIT_CHARS,
    PHRASES_LIMIT,
    PROFILE_LIMIT_CHARS,
    VALUE_LIMIT_CHARS,
)
from reaseq.knowledge.content import clean

LIST_LIMIT = 64  # entries of a list that are read
OBJECTS_LIMIT = 32  # places of a text where an object may begin
LEAST_CONFIDENCE = CONFIDENCES["possible"]  # of a claim that states none

_DECODER = json.JSONDecoder(strict=False)  # allows control characters in strings
_NUMBERS = re.compile(r"\s*#?-?\d{1,9}(\s*[,;]\s*#?\d{1,9})*\s*")
_NUMBERED = re.compile(r"(?:claim)?\s*#?(\d{1,9})(?:[\s:.)].*)?", re.IGNORECASE | re.DOTALL)
_SEPARATORS = re.compile(r"[\s\-/]+")


class UnusableAnswer(Exception):
    """An answer cannot be read at all; `reason` is a code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ClaimAnswer:
    """A claim as an agent returns it: neither its value nor its evidence has been checked."""

    value: str
    confidence: float
    evidence: str


@dataclass(frozen=True)
class DraftAnswer:
    """The answer of a drafting agent: claims by group, and free texts."""

    claims: dict[str, list[ClaimAnswer]]
    product_type: str
    complements: list[str]
    substitutes: list[str]


@dataclass(frozen=True)
class Objection:
    """What the critic has against one numbered claim."""

    verdict: Literal["drop", "revise"]
    note: str


def read_draft(text: str, agent: str, groups: Collection[str]) -> DraftAnswer:
    """The answer of a drafting agent. Raises UnusableAnswer."""
    fields = _find_object(text, {*groups, *FREE_TEXT[agent]})
    return DraftAnswer(
        {group: [_read_claim(entry) for entry in _entries(fields.get(group))] for group in groups},
        _phrase(fields.get("product_type")),
        _phrases(fields.get("complements")),
        _phrases(fields.get("substitutes")),
    )


def read_objections(text: str) -> dict[int, Objection]:
    """The critic's objections by number. Raises UnusableAnswer.

    Of two objections to one claim, "drop" counts. One with an unknown verdict drops the claim.
    """
    objections: dict[int, Objection] = {}
    for entry in _entries(_find_object(text, {"objections"})["objections"]):
        numbers = _numbers(entry)
        if not numbers:
            raise UnusableAnswer("invalid_answer")  # it objects to a claim, but nobody knows which
        note = _text(entry.get("note"))[:NOTE_LIMIT_CHARS] if isinstance(entry, dict) else ""
        is_revise = isinstance(entry, dict) and _name(entry.get("verdict")) == "revise"
        for number in numbers:
            if number not in objections or not is_revise:
                objections[number] = Objection("revise" if is_revise else "drop", note)
    return objections


def read_corrections(text: str) -> dict[int, ClaimAnswer]:
    """The repair's claims by the number of the claim that they replace. Raises UnusableAnswer."""
    entries = _entries(_find_object(text, {"corrections"})["corrections"])
    return {number: _read_claim(entry) for entry in entries for number in _numbers(entry)[:1]}


def read_profile(text: str) -> str:
    """The profile of the synthesis. Raises UnusableAnswer."""
    profile = _text(_find_object(text, {"profile"})["profile"])
    if len(profile) <= PROFILE_LIMIT_CHARS:
        return profile
    return profile[: PROFILE_LIMIT_CHARS + 1].rpartition(" ")[0]


def extract_reasoning(text: str) -> str:
    """The `reasoning` field of an answer; empty if the answer cannot be read or has none."""
    try:
        return _text(_find_object(text, {"reasoning"})["reasoning"])
    except UnusableAnswer:
        return ""


def _find_object(text: str, fields: Collection[str]) -> dict[str, Any]:
    """The outermost object of a text with most of the fields, its keys normalized. Raises UnusableAnswer if none has any."""
    found: list[dict[str, Any]] = []
    thought, _, answer = text.rpartition("</think>")
    text = answer if "{" in answer else thought
    start = text.find("{")
    for _ in range(OBJECTS_LIMIT):
        if start < 0:
            break
        try:
            value, end = _DECODER.raw_decode(text, start)
            found += _candidates(value)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    if not found:
        raise UnusableAnswer("malformed_json")
    best = max(found, key=lambda candidate: len(candidate.keys() & set(fields)))
    if not best.keys() & set(fields):
        raise UnusableAnswer("invalid_answer")
    return best


def _candidates(value: dict[str, Any]) -> list[dict[str, Any]]:
    """An object and those directly in it: some models put the answer under a name of their own."""
    objects = [value, *(inner for inner in value.values() if isinstance(inner, dict))]
    return [{_name(name): inner for name, inner in found.items()} for found in objects]


def _entries(value: Any) -> Sequence[Any]:
    """The entries of a list, of which null is an empty and a single entry a short one."""
    if value is None or value == "":
        return []
    return value[:LIST_LIMIT] if isinstance(value, list) else [value]


def _read_claim(entry: Any) -> ClaimAnswer:
    if not isinstance(entry, dict):
        return ClaimAnswer(_name(entry), LEAST_CONFIDENCE, "")
    evidence = _text(entry.get("evidence"))[:EVIDENCE_LIMIT_CHARS]
    return ClaimAnswer(_name(entry.get("value")), _confidence(entry.get("confidence")), evidence)


def _confidence(value: Any) -> float:
    """A word, or the greatest word that a number reaches: a share or, above 1, a percentage."""
    try:
        number = float(str(value).strip(" %"))
    except ValueError:
        return CONFIDENCES.get(_name(value), LEAST_CONFIDENCE)
    share = number if number <= 1 else number / 100
    return max((word for word in CONFIDENCES.values() if word <= share <= 1), default=LEAST_CONFIDENCE)


def _numbers(entry: Any) -> list[int]:
    """The numbers of the claims that an entry is about, or is: 2, "#2", "claim 2", "2: needs", [1, 2], "1, 2"."""
    value = entry.get("claim") if isinstance(entry, dict) else entry
    if isinstance(value, list):
        return [number for inner in value[:LIST_LIMIT] for number in _numbers(inner)]
    text = f"{value:.0f}" if isinstance(value, float) else str(value)
    if _NUMBERS.fullmatch(text):
        return [int(digits) for digits in re.findall(r"-?\d+", text)]
    named = _NUMBERED.fullmatch(text)
    return [int(named[1])] if named else []


def _name(value: Any) -> str:
    """A name of the vocabulary: lower case, with underscores, and without the definition that some models copy along."""
    return _SEPARATORS.sub("_", _text(value).partition(":")[0].strip(" .'\"`").casefold())[:VALUE_LIMIT_CHARS]


def _phrases(value: Any) -> list[str]:
    return [phrase for entry in _entries(value) if (phrase := _phrase(entry))][:PHRASES_LIMIT]


def _phrase(value: Any) -> str:
    phrase = _text(value)
    return phrase if len(phrase) <= PHRASE_LIMIT_CHARS else ""  # a cut phrase names something else


def _text(value: Any) -> str:
    """A clean text; empty if the value is not a string."""
    return clean(value) if isinstance(value, str) else ""
