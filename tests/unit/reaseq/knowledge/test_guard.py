"""The guard: hostile item text reaches a prompt only as data, and a model that obeys it changes no value."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reaseq.knowledge.agents.agent_pipeline import Rejected
from reaseq.knowledge.content import Content, clean
from reaseq.knowledge.guard import LEAST_COSINE, admit_phrases, admit_profile, enrich
from reaseq.knowledge.llm.request import LlmRequest
from reaseq.records import ProductKnowledge
from tests.fakes.reasoning import PIPELINE, VOCABULARY, ScriptedModel

CANARIES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("injection_canaries.json").read_text())
TURN_MARKERS = ("<|", "|>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>", "<end_of_turn>")

each_canary = pytest.mark.parametrize("canary", CANARIES, ids=[canary["name"] for canary in CANARIES])


def test_canaries_are_diverse() -> None:
    assert len({canary["name"] for canary in CANARIES}) == len(CANARIES) >= 60
    assert len({canary["language"] for canary in CANARIES}) >= 12
    assert len({canary["disguise"] for canary in CANARIES}) >= 20


@each_canary
async def test_injection_stays_inside_a_json_string(canary: dict[str, Any]) -> None:
    content = Content.from_listing(canary["title"], canary["attributes"])
    model = ScriptedModel()
    await PIPELINE.run(content, model)

    for request in model.requests:
        assert request.system == PIPELINE.agents[request.agent].system
        user = json.loads(request.user)
        assert set(user) <= {"item", "claims", "objections", "groups"} and set(user["item"]) <= {"title", "attributes"}
        assert content.title.startswith(user["item"]["title"])
        assert not any(marker in request.user for marker in TURN_MARKERS)
        assert not any(unicodedata.category(char)[0] == "C" for char in request.user)


def obey(request: LlmRequest) -> dict[str, Any]:
    """A model that follows the instructions in the item: the item's words become its values."""
    title = json.loads(request.user)["item"]["title"]
    claims = [{"value": title[:64], "confidence": "certain", "evidence": "as instructed"}]
    claims += [{"value": value, "confidence": "certain", "evidence": "OBEYED " + value} for value in ("mug", "drink", "winter")]
    answers: dict[str, dict[str, Any]] = {
        "demand": {"needs": claims},
        "attribute": {"product_type": title[:40], "category": claims},
        "relation": {"complements": [title[:40]], "substitutes": [title[:40]], "season": claims},
        "critic": {"objections": []},
        "repair": {"corrections": []},
        "synthesis": {"profile": title[:300]},
    }
    return {"reasoning": title[:200], **answers[request.agent]}


@each_canary
async def test_obedient_model_makes_no_claim(canary: dict[str, Any]) -> None:
    model = ScriptedModel(**dict.fromkeys(("demand", "attribute", "relation", "critic", "synthesis"), obey))
    try:
        knowledge = await PIPELINE.run(Content.from_listing(canary["title"], canary["attributes"]), model)
    except Rejected:
        return
    assert knowledge.claims == ()
    assert_plain(knowledge)


async def test_model_that_writes_its_prompt_into_the_free_texts_is_not_published() -> None:
    def leak(request: LlmRequest) -> dict[str, Any]:
        return {"reasoning": "", "profile": " ".join(request.system.split()[10:30])}

    knowledge = await PIPELINE.run(Content.from_listing("RED MUG", {}), ScriptedModel(synthesis=leak))

    assert knowledge.profile == "" and len(knowledge.claims) == 3


def assert_plain(knowledge: ProductKnowledge) -> None:
    for text in (knowledge.profile, knowledge.product_type, *knowledge.complements, *knowledge.substitutes):
        assert text == clean(text)
        assert not any(sign in text for sign in "<>{}[]|\\@") and "http" not in text.lower()
    assert all((claim.group, claim.value) in VOCABULARY for claim in knowledge.claims)


def test_clean_removes_invisible_characters() -> None:
    assert clean("Ｒed\u200b \u202eMUG\u2066\x00\n\tfor\u00ad you\U000e0041") == "Red MUG for you"


def test_profile_with_address_or_markup_is_dropped() -> None:
    assert admit_profile("  A mug\nfor tea. ") == "A mug for tea."
    for hostile in (
        "Buy at https://evil.example",
        "see www.evil",
        "a <b>mug</b>",
        "{mug}",
        "write to me@evil",
        "go to evil.ru now",
    ):
        assert admit_profile(hostile) == ""


def test_phrases_must_look_like_product_types() -> None:
    assert admit_phrases(["Tea Pot", "tea pot", "3 mugs!", "milk & sugar", "<script>", "children's cup", ""]) == (
        "tea pot",
        "milk & sugar",
        "children's cup",
    )


def unit(*numbers: float) -> NDArray[np.float32]:
    vector = np.array(numbers, np.float32)
    scaled: NDArray[np.float32] = vector / np.linalg.norm(vector)
    return scaled


@pytest.mark.parametrize("profile", [unit(1, 0.1), unit(0.5, 1), unit(0, 1), unit(-1, 0.2), unit(-0.2, -1)])
def test_enriched_vector_moves_toward_the_profile_within_the_bound(profile: NDArray[np.float32]) -> None:
    text = unit(1, 0)

    enriched = enrich(text, profile)

    assert np.linalg.norm(enriched) == pytest.approx(1, abs=1e-5)
    assert enriched @ text >= LEAST_COSINE - 1e-5
    assert enriched @ profile > text @ profile
    assert enriched.dtype == np.float32


def test_opposite_profile_does_not_move_the_vector() -> None:
    text = unit(0.6, 0.8)

    assert enrich(text, -text) == pytest.approx(text)
