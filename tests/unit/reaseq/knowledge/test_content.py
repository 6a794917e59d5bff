"""Canonical content, its fingerprint, and recorded answers found by it."""

import numpy as np

from demo import ANSWERS, VOCABULARY
from reaseq.knowledge.content import Content, fingerprint
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.recorded import RecordedReasoner
from reaseq.knowledge.vocabulary import load_vocabulary


def test_content_ignores_invisible_characters_and_the_order_of_attributes() -> None:
    plain = Content.from_listing("Red Lantern", {"b": "2", "a": "1"})

    assert Content.from_listing("Ｒed\u200b \u202eLantern\x00 ", {"a": "1", "b": "2"}) == plain
    assert Content.from_listing("Red Lantern", {}).hash != plain.hash
    assert plain.text == "Red Lantern. a: 1. b: 2"


def test_fingerprint_depends_on_content_vocabulary_and_reasoner() -> None:
    prints = {
        fingerprint(*parts) for parts in (("c", "v", "r"), ("d", "v", "r"), ("c", "w", "r"), ("c", "v", "s"), ("cv", "", "r"))
    }

    assert len(prints) == 5


async def test_recorded_reasoner_answers_by_content_within_the_vocabulary() -> None:
    vocabulary = load_vocabulary(VOCABULARY)
    reasoner = RecordedReasoner.from_parquet(ANSWERS, vocabulary)
    titles = ("WHITE  HANGING HEART T-LIGHT HOLDER", "nobody sells this")
    items = [ReasoningItem(Content.from_listing(title, {})) for title in titles]

    answer, nothing = await reasoner.reason(items, np.zeros((2, 4), np.float32))

    assert nothing is None
    assert answer and answer.profile
    assert all((claim.group, claim.value) in vocabulary for claim in answer.claims)
