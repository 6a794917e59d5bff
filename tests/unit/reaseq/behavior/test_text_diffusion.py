"""Behaviors in words: what is sent, how answers are read, and to what they are grounded."""

import asyncio
import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reaseq.behavior.history import InferenceRequest
from reaseq.behavior.text_diffusion import PHRASE_LIMIT_CHARS, TextDiffusionBackend, parse_phrases
from reaseq.knowledge.llm.call import Completion, LlmRequest, Model
from reaseq.records import Inferred, ItemFeatures
from reaseq.settings import TextDiffusionSettings
from tests.fakes.catalog import ITEMS, NOW_MS, item, request, table_of

TABLE = table_of(*(item(number) for number in range(ITEMS)), item(900, listed_ms=NOW_MS + 1))


class Scripted:
    """A stand-in for the endpoint: gives one text and keeps the calls."""

    def __init__(self, text: str, rejected: str = "") -> None:
        self.calls: list[LlmRequest] = []
        self._completion = Completion(text=text, rejected=rejected)

    async def complete(self, call: LlmRequest) -> Completion:
        self.calls.append(call)
        return self._completion


class ByName:
    """A stand-in for the encoder: "like i7" has the vector of item i7, anything else points nowhere."""

    space_id = "s"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.zeros((len(texts), 16), np.float32)
        for row, text in enumerate(texts):
            name = text.removeprefix("like ")
            if name in TABLE.snapshot.index:
                found[row] = TABLE.snapshot.vectors[TABLE.snapshot.index[name]].numpy()
        return found


class Titles:
    """A stand-in for the feature store."""

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        return {item_id: item(int(item_id[1:]), title=f"Title of {item_id} <|im_end|>") for item_id in item_ids}


def infer(text: str, rejected: str = "", asked: InferenceRequest | None = None) -> tuple[list[Inferred | None], Scripted]:
    endpoint = Scripted(text, rejected)
    backend = TextDiffusionBackend(endpoint, "tiny@1", ByName(), Titles(), TABLE, TextDiffusionSettings(history_behaviors=4), 5)
    return asyncio.run(backend.answer([asked or request(9)])), endpoint


def test_phrases_are_grounded_to_the_items_they_are_closest_to() -> None:
    (answer,), _ = infer('["like i7", "like i250", "like i7", "no such thing"]')

    assert answer
    assert set(answer.item_ids) == {"i7", "i250"}
    assert answer.model == "words:tiny@1" and answer.as_of_ms == NOW_MS and answer.events_seen == 10
    assert all(p == pytest.approx(1.0, abs=0.01) for p in answer.confidences)


def test_what_the_log_has_or_is_not_listed_yet_is_not_inferred() -> None:
    held = request(9).history.item_ids[0]

    (answer,), _ = infer(json.dumps([f"like {held}", "like i900", "like i7"]))

    assert answer and answer.item_ids[0] == "i7"
    assert held not in answer.item_ids and "i900" not in answer.item_ids


def test_a_phrase_that_nothing_on_sale_is_close_to_is_not_grounded() -> None:
    (answer,), _ = infer('["no such thing"]')

    assert answer is None


def test_of_an_answer_that_was_cut_the_last_phrase_is_left_out() -> None:
    (answer,), _ = infer('"like i7"\n"like i25', "truncated")

    assert answer and answer.item_ids == ("i7",)


@pytest.mark.parametrize(
    ("text", "rejected"),
    [("", "no_answer"), ("like i7", "truncated"), ("I cannot help with that.", ""), ("[]", ""), ("[1, 2]", "")],
)
def test_an_answer_without_a_behavior_is_no_answer(text: str, rejected: str) -> None:
    (answer,), _ = infer(text, rejected)

    assert answer is None


def test_the_model_sees_the_latest_behaviors_as_data_and_no_structure_is_asked_for() -> None:
    _, endpoint = infer("[]")

    body = endpoint.calls[0].body(Model("tiny"))
    assert "response_format" not in body
    sent = body["messages"][1]["content"]
    assert "<|im_end|>" not in sent
    told = json.loads(sent)
    assert len(told["history"]) == 4 and told["count"] == 5 and told["today"] == "1972-09-27"
    assert told["history"][-1] == {
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
def test_answers_are_read_in_whatever_dress_they_come(text: str) -> None:
    assert parse_phrases(text, 10) == ["tea towel", "red mug"]


@given(st.text(max_size=2000))
def test_no_text_breaks_the_reader(text: str) -> None:
    phrases = parse_phrases(text, 8)

    assert len(phrases) <= 8
    assert all(0 < len(phrase) <= PHRASE_LIMIT_CHARS for phrase in phrases)
