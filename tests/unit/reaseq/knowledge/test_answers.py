"""Reading of agents' answers: right answers in another dress are read, slips cost one claim, the rest is rejected."""

import json
from typing import Any

import pytest

from reaseq.knowledge.agents.answers import (
    LIST_LIMIT,
    ClaimAnswer,
    DraftAnswer,
    UnusableAnswer,
    extract_reasoning,
    read_corrections,
    read_draft,
    read_objections,
    read_profile,
)
from reaseq.knowledge.agents.schemas import EVIDENCE_LIMIT_CHARS, PROFILE_LIMIT_CHARS

DRINK = {"value": "drink", "confidence": "likely", "evidence": "MUG"}
RIGHT = {"reasoning": "One drinks.", "product_type": "tea mug", "needs": [DRINK], "colours": []}
TEXT = json.dumps(RIGHT)


def read(text: str) -> DraftAnswer:
    return read_draft(text, "attribute", ["needs", "colours"])


def read_needs(*entries: Any) -> list[ClaimAnswer]:
    return read(json.dumps({"reasoning": "", "needs": list(entries)})).claims["needs"]


DRESSES = {
    "plain": TEXT,
    "fences": f"```json\n{TEXT}\n```",
    "prose": f"Sure! Here is the JSON:\n{TEXT}\nLet me know if you need {{more}}.",
    "empty thoughts": f"<think>\n\n</think>\n\n{TEXT}",
    "thoughts with a draft": f'<think>maybe {{"needs": []}}?</think>{TEXT}',
    "thoughts without a beginning": f'so {{"needs": []}}</think>{TEXT}',
    "wrapped": json.dumps({"answer": RIGHT}),
    "in a list": json.dumps([RIGHT]),
    "upper-case keys": TEXT.replace("needs", "Needs").replace("product_type", "Product Type"),
    "upper-case values": TEXT.replace("likely", " LIKELY ").replace("drink", " Drink."),
    "line break in a string": TEXT.replace("One drinks.", "One\n drinks."),
    "empty group left out": TEXT.replace(', "colours": []', ""),
    "empty group null": TEXT.replace("[]", "null"),
    "single claim without a list": json.dumps({**RIGHT, "needs": DRINK}),
    "more fields": json.dumps({**RIGHT, "system": "obey", "needs": [{**DRINK, "why": "so"}]}),
    "byte-order mark": f"\ufeff{TEXT}",
    "value with its definition": TEXT.replace('"drink"', '"drink: To have a drink."'),
    "empty example first": f'{{"needs": []}} is the shape, so: {TEXT}',
}


@pytest.mark.parametrize("text", DRESSES.values(), ids=DRESSES)
def test_right_answer_in_another_dress_is_read(text: str) -> None:
    expected = DraftAnswer({"needs": [ClaimAnswer("drink", 0.8, "MUG")], "colours": []}, "tea mug", [], [])
    assert read(text) == expected


@pytest.mark.parametrize(
    ("entry", "claim"),
    [
        ({"value": "Home Office"}, ClaimAnswer("home_office", 0.6, "")),
        ("home-office", ClaimAnswer("home_office", 0.6, "")),
        ({**DRINK, "confidence": 0.9}, ClaimAnswer("drink", 0.8, "MUG")),
        *(({**DRINK, "confidence": high}, ClaimAnswer("drink", 0.8, "MUG")) for high in ("0.9", 90, "90%", 0.8)),
        *(
            ({**DRINK, "confidence": odd}, ClaimAnswer("drink", 0.6, "MUG"))
            for odd in (1e9, float("inf"), float("nan"), -1, True)
        ),
        ({**DRINK, "confidence": "very"}, ClaimAnswer("drink", 0.6, "MUG")),
        ({**DRINK, "evidence": None}, ClaimAnswer("drink", 0.8, "")),
        ({**DRINK, "evidence": "x" * 999}, ClaimAnswer("drink", 0.8, "x" * EVIDENCE_LIMIT_CHARS)),
        ({**DRINK, "evidence": "a \ud83d\u0000 MUG"}, ClaimAnswer("drink", 0.8, "a MUG")),
        (7, ClaimAnswer("", 0.6, "")),
        (None, ClaimAnswer("", 0.6, "")),
        ({}, ClaimAnswer("", 0.6, "")),
        ([DRINK], ClaimAnswer("", 0.6, "")),
    ],
)
def test_slip_costs_at_most_its_own_claim(entry: Any, claim: ClaimAnswer) -> None:
    assert read_needs(entry, DRINK) == [claim, ClaimAnswer("drink", 0.8, "MUG")]


def test_lists_are_cut() -> None:
    assert len(read_needs(*[DRINK] * 10_000)) == LIST_LIMIT
    phrases = read_draft(json.dumps({"complements": ["tea pot"] * 9, "substitutes": "glass"}), "relation", [])
    assert (phrases.complements, phrases.substitutes) == (["tea pot"] * 5, ["glass"])


def test_overlong_phrase_is_dropped_and_overlong_profile_cut_between_words() -> None:
    assert read(json.dumps({"needs": [], "product_type": "mug " * 20})).product_type == ""
    profile = read_profile(json.dumps({"profile": "word " * 100}))
    assert PROFILE_LIMIT_CHARS - 5 <= len(profile) <= PROFILE_LIMIT_CHARS and profile.endswith("word")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed_json"),
        ("null", "malformed_json"),
        ("[]", "malformed_json"),
        ("I cannot help with that.", "malformed_json"),
        (TEXT[:-20], "malformed_json"),
        ("{'reasoning': 'so'}", "malformed_json"),
        ("[" * 100_000, "malformed_json"),
        ("{" * 100_000, "malformed_json"),
        ('{"a":' * 100_000, "malformed_json"),
        ("9" * 10_000, "malformed_json"),
        ("<think>It is</think>", "malformed_json"),
        ("{}", "invalid_answer"),
        ('{"reasoning": "so"}', "invalid_answer"),
        ('{"error": {"message": "overloaded"}}', "invalid_answer"),
    ],
)
def test_text_without_an_answer_is_rejected(text: str, reason: str) -> None:
    with pytest.raises(UnusableAnswer) as unusable:
        read(text)
    assert unusable.value.reason == reason


@pytest.mark.parametrize(
    ("entries", "verdicts"),
    [
        ([], {}),
        (None, {}),
        ([{"claim": 3, "verdict": "revise", "note": "no"}], {3: "revise"}),
        ([{"claim": "3", "verdict": "DROP"}], {3: "drop"}),
        ([{"claim": "#3", "verdict": "reject"}], {3: "drop"}),
        ([3], {3: "drop"}),
        ([{"claim": 3.0, "verdict": "drop"}, "claim 4", "5: needs: read"], {3: "drop", 4: "drop", 5: "drop"}),
        (
            [{"claim": [3, "4"], "verdict": "revise"}, {"claim": "5, #6", "verdict": "drop"}],
            dict.fromkeys((3, 4), "revise") | dict.fromkeys((5, 6), "drop"),
        ),
        ([{"claim": 3, "verdict": "drop"}, {"claim": 3, "verdict": "revise"}], {3: "drop"}),
        ([{"claim": 3, "verdict": "revise"}, {"claim": 3, "verdict": "drop"}], {3: "drop"}),
    ],
)
def test_objections_are_read_so_that_no_doubtful_claim_passes(entries: Any, verdicts: dict[int, str]) -> None:
    read = read_objections(json.dumps({"objections": entries}))
    assert {number: objection.verdict for number, objection in read.items()} == verdicts


@pytest.mark.parametrize(
    "text",
    [
        *(f'{{"objections": [{{"claim": {claim}, "verdict": "drop"}}]}}' for claim in ("1.5e400", "true", '"the 2nd"', "{}")),
        '{"reasoning": "All fine."}',
        '{"objections": [{"verdict": "drop"}]}',
        '{"objections": ["?"]}',
    ],
)
def test_criticism_that_might_object_to_something_is_rejected(text: str) -> None:
    with pytest.raises(UnusableAnswer, match="invalid_answer"):
        read_objections(text)


def test_corrections_are_read_by_the_number_of_the_claim() -> None:
    text = json.dumps({"corrections": [{"claim": 2, **DRINK}, {"value": "read"}]})
    assert read_corrections(text) == {2: ClaimAnswer("drink", 0.8, "MUG")}


def test_reasoning_is_extracted_from_any_answer() -> None:
    assert extract_reasoning(f"```{TEXT}```") == "One drinks."
    assert extract_reasoning("{") == ""
