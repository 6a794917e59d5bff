"""The text diffusion backend: what is sent, how answers are parsed, and how they are grounded."""

import asyncio
import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reaseq.behavior.text_diffusion import PHRASE_LIMIT_CHARS, TextDiffusionBackend, parse_phrases
from reaseq.knowledge.llm.request import Completion, LlmRequest, Model
from reaseq.records import Inferred, ItemFeatures
from reaseq.settings import TextDiffusionSettings
from tests.fakes.catalog import ITEMS, NOW_MS, build_table, item, request

TABLE = build_table(*(item(number) for number in range(ITEMS)), item(900, listed_ms=NOW_MS + 1))


class ScriptedEndpoint:
    """A fake endpoint: returns one text and records the requests."""

    def __init__(self, text: str, rejected: str = "") -> None:
        self.requests: list[LlmRequest] = []
        self._completion = Completion(text=text, rejected=rejected)

    async def complete(self, request: LlmRequest) -> Completion:
        self.requests.append(request)
        return self._completion


class NameEncoder:
    """A fake encoder: "like i7" has the vector of item i7, anything else is zero."""

    space_id = "s"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), 16), np.float32)
        for row, text in enumerate(texts):
            name = text.removeprefix("like ")
            if name in TABLE.snapshot.index:
                vectors[row] = TABLE.snapshot.vectors[TABLE.snapshot.index[name]].numpy()
        return vectors


class TitleStore:
    """A fake feature store, which knows the title of any item."""

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        return {item_id: item(int(item_id[1:]), title=f"Title of {item_id} <|im_end|>") for item_id in item_ids}


def infer(text: str, rejected: str = "") -> tuple[list[Inferred | None], ScriptedEndpoint]:
    endpoint, settings = ScriptedEndpoint(text, rejected), TextDiffusionSettings(history_behaviors=4)
    backend = TextDiffusionBackend(endpoint, "tiny@1", NameEncoder(), TitleStore(), TABLE, settings, 5)
    return asyncio.run(backend.answer([request(9)])), endpoint


def test_phrases_are_grounded_to_the_closest_items() -> None:
    (answer,), _ = infer('["like i7", "like i250", "like i7", "no such thing"]')

    assert answer
    assert set(answer.item_ids) == {"i7", "i250"}
    assert answer.model == "words:tiny@1" and answer.as_of_ms == NOW_MS and answer.events_seen == 10
    assert all(p == pytest.approx(1.0, abs=0.01) for p in answer.confidences)


def test_items_in_the_log_or_not_yet_listed_are_not_inferred() -> None:
    known = request(9).history.item_ids[0]

    (answer,), _ = infer(json.dumps([f"like {known}", "like i900", "like i7"]))

    assert answer and answer.item_ids[0] == "i7"
    assert known not in answer.item_ids and "i900" not in answer.item_ids


def test_phrase_without_a_close_item_is_not_grounded() -> None:
    (answer,), _ = infer('["no such thing"]')

    assert answer is None


def test_last_phrase_of_a_truncated_answer_is_dropped() -> None:
    (answer,), _ = infer('"like i7"\n"like i25', "truncated")

    assert answer and answer.item_ids == ("i7",)


@pytest.mark.parametrize(
    ("text", "rejected"),
    [("", "no_answer"), ("like i7", "truncated"), ("I cannot help with that.", ""), ("[]", ""), ("[1, 2]", "")],
)
def test_answer_without_a_behavior_infers_nothing(text: str, rejected: str) -> None:
    (answer,), _ = infer(text, rejected)

    assert answer is None


def test_request_holds_the_latest_behaviors_as_data_without_structured_output() -> None:
    _, endpoint = infer("[]")

    body = endpoint.requests[0].body(Model("tiny"))
    assert "response_format" not in body
    sent = body["messages"][1]["content"]
    assert "<|im_end|>" not in sent
    data = json.loads(sent)
    assert len(data["history"]) == 4 and data["count"] == 5 and data["today"] == "1992-09-27"
    assert data["history"][-1] == {
        "days_ago": 1,
        "done": "purchase",
        "product": f"Title of {request(9).history.item_ids[-1]} <|im_end|>",
    }


@pytest.mark.parametrize(
    "text",
    [
        '["tea towel", "red mug"]',
        'Sure! Here you go:\n["tea towel", "red mug"]\nEnjoy.',
        "tea towel\nred mug",
        "- tea towel\n* red mug\n",
        '1. "tea towel",\n2) "red mug"',
        '["tea towel", 7, null, "red mug", "tea towel", ""]',
    ],
)
def test_parse_phrases_accepts_lists_and_lines(text: str) -> None:
    assert parse_phrases(text, 10) == ["tea towel", "red mug"]


@given(st.text(max_size=2000))
def test_parse_phrases_accepts_any_text(text: str) -> None:
    phrases = parse_phrases(text, 8)

    assert len(phrases) <= 8
    assert all(0 < len(phrase) <= PHRASE_LIMIT_CHARS for phrase in phrases)
