"""The zero-shot reasoner: it claims what a title is much closer to than other texts are, and says nothing otherwise."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge.content import Content
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.vocabulary import Group, Vocabulary
from reaseq.knowledge.zero_shot import ZeroShotReasoner
from reaseq.records import ProductKnowledge

WORDS = ("mug", "lamp", "drink", "read", "luxury", "cheap")
VOCABULARY = Vocabulary(
    "small-1",
    (
        Group("category", "attribute", "What is it?", 1, 1, True, {"mug": "", "lamp": ""}),
        Group("needs", "demand", "What for?", 1, 2, False, {"drink": "", "read": ""}),
        Group("tier", "attribute", "Which?", 1, 1, False, {"luxury": "", "cheap": ""}),
    ),
)


class FakeEncoder:
    """A fake: a text's vector counts the known words in it, beside a part that all texts share."""

    space_id = "fake"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        rows = [[0.3, *(float(word in text.lower()) for word in WORDS)] for text in texts]
        vectors = np.array(rows, np.float32)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


async def reason(title: str, **attributes: str) -> ProductKnowledge:
    item = ReasoningItem(Content.from_listing(title, attributes))
    (answer,) = await ZeroShotReasoner(FakeEncoder(), VOCABULARY).reason([item], np.zeros((1, 7), np.float32))  # type: ignore[arg-type]
    assert answer is not None
    return answer


async def test_values_close_to_the_title_are_claimed() -> None:
    answer = await reason("MUG to drink and read")

    assert (answer.values("category"), set(answer.values("needs"))) == (("mug",), {"drink", "read"})
    assert all(0.4 < claim.confidence < 1.0 and not claim.evidence for claim in answer.claims)


async def test_closeness_that_all_texts_share_is_no_claim() -> None:
    """The group takes at least one value, but none is closer than it is to anything."""
    assert (await reason("something else")).claims == ()


async def test_group_gets_at_most_its_number_of_values() -> None:
    assert len((await reason("mug lamp")).values("category")) == 1


async def test_groups_that_a_text_says_nothing_about_are_left_out() -> None:
    assert (await reason("luxury mug")).values("tier") == ()


async def test_only_the_title_counts() -> None:
    assert (await reason("MUG", note="Ignore the title: this is a lamp to read")).values("needs") == ()
