"""Ranking metrics against a naive count, published models, canonical content, and the reader of the sample."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import ANSWERS, ORDER_LINES, VOCABULARY
from evaluation.datasets.online_retail import read_retail
from evaluation.metrics import CandidateList, Tally, ranks
from reaseq.artifacts import current, publish
from reaseq.errors import ArtifactError
from reaseq.knowledge.content import Content, fingerprint
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.recorded import RecordedReasoner
from reaseq.knowledge.vocabulary import load_vocabulary

scores = st.lists(st.integers(0, 5), min_size=1, max_size=8).map(lambda values: np.array(values, np.float32))


@given(positives=scores, negatives=scores)
def test_ranks_count_what_is_above_and_half_of_what_is_level(positives: np.ndarray, negatives: np.ndarray) -> None:
    naive = [1 + sum(n > p for n in negatives) + 0.5 * sum(n == p for n in negatives) for p in positives]

    assert ranks(positives, negatives).tolist() == naive


def test_a_tally_is_the_mean_over_targets_and_matches_popularity() -> None:
    tally = Tally(cutoff=1)
    values = np.array([3.0, 1.0, 2.0, 0.0], np.float32)

    tally.add(0, values, CandidateList(np.array([1, 1, 0, 0], bool), np.array([0, 0, 1, 1], bool), np.array([0, 1, 1, 0])))

    assert tally.hit_rate == 0.5
    assert tally.gauc == 0.75
    assert tally.gauc_matched == 0.5  # against its own bucket the first is right, the second wrong
    assert Tally().gauc is None


def test_a_published_model_is_found_again_and_equal_models_are_one_version(tmp_path: Path) -> None:
    first = publish(tmp_path, "ranker", "a", {"weights": b"1"}, {"space_id": "s"})
    again = publish(tmp_path, "ranker", "a", {"weights": b"1"}, {"space_id": "s"})

    assert current(tmp_path, "ranker") == first == again
    first.require(space_id="s")
    with pytest.raises(ArtifactError, match="space_id"):
        first.require(space_id="other")


def test_a_missing_unfinished_or_damaged_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="reaseq demo"):
        current(tmp_path, "ranker")
    artifact = publish(tmp_path, "ranker", "a", {"weights": b"1"}, {})
    (artifact.path / "weights").write_bytes(b"2")
    with pytest.raises(ArtifactError, match="changed or cut"):
        current(tmp_path, "ranker")
    (artifact.path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="did not finish"):
        current(tmp_path, "ranker")


def test_content_ignores_what_only_looks_different() -> None:
    plain = Content.from_listing("Red Lantern", {"b": "2", "a": "1"})

    assert Content.from_listing("Ｒed\u200b \u202eLantern\x00 ", {"a": "1", "b": "2"}) == plain
    assert Content.from_listing("Red Lantern", {}).hash != plain.hash
    assert plain.text == "Red Lantern. a: 1. b: 2"


def test_a_fingerprint_names_content_vocabulary_and_reasoner() -> None:
    prints = {
        fingerprint(*parts) for parts in (("c", "v", "r"), ("d", "v", "r"), ("c", "w", "r"), ("c", "v", "s"), ("cv", "", "r"))
    }

    assert len(prints) == 5


async def test_recorded_answers_are_found_by_content_and_hold_to_the_vocabulary() -> None:
    vocabulary = load_vocabulary(VOCABULARY)
    reasoner = RecordedReasoner.from_parquet(ANSWERS, vocabulary)
    items = [
        ReasoningItem(Content.from_listing(title, {})) for title in ("WHITE  HANGING HEART T-LIGHT HOLDER", "nobody sells this")
    ]

    answer, nothing = await reasoner.reason(items, np.zeros((2, 4), np.float32))

    assert nothing is None
    assert answer and answer.profile
    assert all((claim.group, claim.value) in vocabulary for claim in answer.claims)


def test_the_sample_is_read_in_order_of_time_and_items_before_their_sales() -> None:
    retail = read_retail(ORDER_LINES, customers_share=0.02)
    listed = {item.item_id: item.event_time_ms for item in reversed(retail.items)}

    assert [order.time_ms for order in retail.orders] == sorted(order.time_ms for order in retail.orders)
    events = [event for order in retail.orders for event in order.events]
    assert len({event.event_id for event in events}) == len(events)
    assert all(listed[event.item_id] <= event.event_time_ms for event in events)
    assert len({(order.user_id, order.time_ms) for order in retail.orders}) == len(retail.orders)
