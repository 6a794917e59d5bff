"""The item table, sequences and the ranker, on small random models."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reaseq.behavior.sequence import sequences_of
from reaseq.days import DAY_MS
from reaseq.errors import SpaceMismatch
from reaseq.ranker.engine import Engine
from reaseq.ranker.model import Ranker, RankerConfig, TargetAttention
from reaseq.ranker.popularity import Popularity
from reaseq.records import Inferred, UserFeatures
from reaseq.representation.trained_ids import TrainedIds
from tests.unit.catalogue_stand_ins import CATALOGUE, DIM, ITEMS, NOW_MS, VOCABULARY, item, question, table_of


def test_the_table_keeps_the_newest_of_each_item() -> None:
    table = table_of(item(1, event_time_ms=5, price=5.0))

    assert table.apply([item(1, event_time_ms=4, price=4.0), item(1, event_time_ms=5, stage="text")]) == 0
    assert table.apply([item(1, event_time_ms=5, stage="delisted")]) == 1
    assert table.snapshot.prices[1] == 5.0
    assert not table.snapshot.live[1]


def test_by_id_equal_catalogues_are_equal_tables_in_whatever_order_they_came() -> None:
    items = [item(number) for number in range(ITEMS)]
    one, other = table_of(*items).snapshot.by_id(), table_of(*reversed(items)).snapshot.by_id()

    assert one.ids == other.ids == ["", *sorted(item.item_id for item in items)]
    assert one.index == other.index
    for name in ("vectors", "claims", "confidences", "prices", "listed_ms", "live"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.rows(["i3"]).item() == one.ids.index("i3")


def test_a_snapshot_never_changes() -> None:
    table = table_of(item(1))
    before = table.snapshot
    vectors = before.vectors.clone()

    table.apply([item(2), item(1, event_time_ms=9, price=3.0)])

    assert torch.equal(before.vectors, vectors)
    assert before.rows(["i2"]).tolist() == [0]
    assert table.snapshot.rows(["i1", "i2", "nobody"]).tolist() == [1, 2, 0]


def test_groups_of_items_are_as_alike_as_their_mean_vectors() -> None:
    table = table_of(*(item(number) for number in range(1, 5)))
    vectors = {n: np.frombuffer(item(n).vector, np.float16).astype(np.float32) for n in (1, 2, 3)}
    mean = vectors[1] + vectors[2]
    by_hand = mean @ vectors[3] / np.linalg.norm(mean) / np.linalg.norm(vectors[3])

    assert np.isclose(table.cosine(["i1", "i2"], ["i3", "nobody"]), by_hand, atol=1e-3)
    assert table.cosine(["i1"], ["i1"]) > 0.999
    assert table.cosine(["i1"], ["nobody"]) == table.cosine([], ["i1"]) == 1.0


def test_spaces_are_not_mixed() -> None:
    with pytest.raises(SpaceMismatch, match="other"):
        table_of(item(1, space_id="other"))


def test_sequences_hold_the_latest_behaviours_on_the_right() -> None:
    sequences = sequences_of([question(3).history], [NOW_MS], CATALOGUE.snapshot, length=6)

    assert sequences.rows[0, :2].tolist() == [0, 0]
    assert sequences.rows[0, 2:].tolist() == CATALOGUE.snapshot.rows(question(3).history.item_ids).tolist()
    assert sequences.gaps[0].tolist() == [0, 0, 7, 7, 6, 5]  # four, three, two and one day in hours, by powers of two


def test_attention_does_not_see_what_the_gate_hides() -> None:
    attention = TargetAttention(8)
    candidates, sequence = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    gate = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    changed = sequence.clone()
    changed[0, 1] = 100.0

    assert torch.allclose(attention(candidates, sequence, gate), attention(candidates, changed, gate), atol=1e-5)
    assert (attention(candidates, sequence, torch.zeros(1, 4)) == 0).all()


def engine(**changes: bool) -> Engine:
    torch.manual_seed(0)
    ids = TrainedIds([f"i{number}" for number in range(ITEMS - 50)])
    config = RankerConfig(vector_dim=DIM, claims=VOCABULARY.size, items=len(ids), width=16, **changes)
    popularity = Popularity()
    for row in range(1, 100):
        popularity.observe(row, NOW_MS - row * DAY_MS // 2)
    return Engine(Ranker(config), ids, "v1", CATALOGUE, popularity)


USER = UserFeatures(
    user_id="u",
    event_time_ms=1,
    events_seen=1,
    history=question(9).history,
    inferred=Inferred(item_ids=("i5", "i6"), confidences=(0.4, 0.1)),
)


@pytest.mark.parametrize("changes", [{}, {"semantic": False, "reads_inferred": False}, {"reads_inferred": False}])
def test_a_candidates_score_does_not_depend_on_the_others(changes: dict[str, bool]) -> None:
    ranker = engine(**changes)
    together = ranker.score(USER, ["i1", "i5", "i290", "nobody"], NOW_MS)

    for place, item_id in enumerate(["i1", "i5", "i290", "nobody"]):
        assert np.allclose(ranker.score(USER, [item_id], NOW_MS)[0], together[place], atol=1e-5)


def test_a_user_without_features_is_ranked_by_context() -> None:
    scores = engine().score(None, [f"i{number}" for number in range(50)], NOW_MS)

    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) > 10


def test_inferred_behaviours_change_the_score_of_their_items() -> None:
    without = UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=USER.history)

    assert not np.allclose(engine().score(USER, ["i5"], NOW_MS), engine().score(without, ["i5"], NOW_MS))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(900, 1000)), max_size=60))
@settings(max_examples=50, deadline=None)
def test_popularity_counts_like_a_recount(seen: list[tuple[int, int]]) -> None:
    popularity = Popularity()
    for row, day in seen:
        popularity.observe(row, day * DAY_MS + 5)

    today = max((day for _, day in seen), default=0)
    counts = popularity.counts(np.arange(6))

    for row in range(6):
        days = [day for seen_row, day in seen if seen_row == row]
        assert counts[row].tolist() == [len(days), sum(d > today - 7 for d in days), sum(d > today - 30 for d in days)]
