"""The item table, sequences and target attention on random items."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reaseq import float16
from reaseq.behavior.sequence import build_sequences
from reaseq.ranker.model import TargetAttention
from reaseq.records import Claim, ItemFeatures, ProductKnowledge
from reaseq.representation.item_table import Snapshot
from tests.fakes.catalog import CATALOG, DIM, ITEMS, NOW_MS, VOCABULARY, build_table, item, request


def test_table_keeps_the_newest_record_of_each_item() -> None:
    table = build_table(item(1, event_time_ms=5, price=5.0))

    before = table.snapshot
    table.apply([item(1, event_time_ms=4, price=4.0), item(1, event_time_ms=5, status="text")])
    assert table.snapshot is before
    table.apply([item(1, event_time_ms=5, status="delisted")])
    assert table.snapshot.prices[1] == 5.0
    assert not table.snapshot.live[1]


def test_by_id_does_not_depend_on_the_order_of_arrival() -> None:
    items = [item(number) for number in range(ITEMS)]
    one, other = build_table(*items).snapshot.by_id(), build_table(*reversed(items)).snapshot.by_id()

    assert one.ids == other.ids == ["", *sorted(item.item_id for item in items)]
    assert one.index == other.index
    for name in ("slots", "prices", "listed_ms", "live"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("vectors", "claims", "confidences"):
        assert torch.equal(getattr(one.contents, name), getattr(other.contents, name)), name
    assert one.rows(["i3"]).item() == one.ids.index("i3")


def test_snapshot_is_immutable() -> None:
    table = build_table(item(1))
    before = table.snapshot
    vectors = before.vectors.clone()

    table.apply([item(2), item(1, event_time_ms=9, price=3.0)])

    assert torch.equal(before.vectors, vectors)
    assert before.rows(["i2"]).tolist() == [0]
    assert table.snapshot.rows(["i1", "i2", "nobody"]).tolist() == [1, 2, 0]


@given(st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5), st.booleans()), min_size=1, max_size=8), max_size=12))
@settings(max_examples=60)
def test_table_always_equals_the_newest_records(
    batches: list[list[tuple[int, int, bool]]],
) -> None:
    table, newest = build_table(), dict[int, ItemFeatures]()
    seen = []
    for batch in batches:
        records = [
            item(number, event_time_ms=time_ms, price=float(time_ms), status="delisted" if delisted else "reasoned")
            for number, time_ms, delisted in batch
        ]
        table.apply(records)
        for (number, *_), record in zip(batch, records, strict=True):
            known = newest.get(number)
            if known is None or record.version > known.version:
                newest[number] = record
        snapshot = table.snapshot
        seen.append((snapshot, snapshot.vectors.clone(), snapshot.prices.clone()))

    snapshot = table.snapshot
    assert {snapshot.ids[row] for row in snapshot.live.nonzero().flatten().tolist()} == {
        record.item_id for record in newest.values() if record.status != "delisted"
    }
    for record in newest.values():
        row = int(snapshot.rows([record.item_id])[0])
        if record.status != "delisted":
            assert snapshot.prices[row] == record.price
            vector = snapshot.contents.vectors[snapshot.slots[row]].numpy()
            assert np.array_equal(vector, float16.unpack(record.vector))
            assert snapshot.rows_of_slots[snapshot.slots[row]] == row
    assert len(snapshot.contents) <= 2 * len(snapshot) + 2 * 8 * 2 + 2  # unused slots are dropped
    for old, vectors, prices in seen:  # earlier snapshots have not changed
        assert torch.equal(old.vectors, vectors) and torch.equal(old.prices, prices)


def test_cosine_compares_the_mean_vectors_of_groups() -> None:
    table = build_table(*(item(number) for number in range(1, 5)))
    vectors = {number: float16.unpack(item(number).vector) for number in (1, 2, 3)}
    mean = vectors[1] + vectors[2]
    expected = mean @ vectors[3] / np.linalg.norm(mean) / np.linalg.norm(vectors[3])

    assert np.isclose(table.cosine(["i1", "i2"], ["i3", "nobody"]), expected, atol=1e-3)
    assert table.cosine(["i1"], ["i1"]) > 0.999
    assert table.cosine(["i1"], ["nobody"]) == table.cosine([], ["i1"]) == 1.0


def test_nearest_items_are_on_sale_and_neighbors_exclude_the_item() -> None:
    table = build_table(*(item(number) for number in range(20)), item(20, status="delisted")).snapshot
    row = table.index["i3"]
    vector = table.vectors[row]
    expected = (table.vectors @ vector)[1:21].argsort(descending=True) + 1  # without the delisted one, the last row

    near = table.nearest(vector, 100)

    assert [other for other, _ in near] == expected.tolist()
    assert near[0][0] == row and near[0][1] == pytest.approx(1.0, abs=1e-3)
    assert table.neighbors(row, 4) == near[1:5]
    delisted = table.index["i20"]
    assert table.neighbors(delisted, 4) == table.nearest(table.vectors[delisted], 4)


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"space_id": "other"}, "space_mismatch", "space 'other'"),
        ({"vector": b"\0"}, "invalid_vector", "1 bytes"),
        ({"vector": np.full(DIM, np.nan, np.float16).tobytes()}, "invalid_vector", "not finite"),
        ({"knowledge": ProductKnowledge(vocabulary="unheard-of-1", claims=())}, "vocabulary", "unheard-of-1"),
        (
            {"knowledge": ProductKnowledge(vocabulary=VOCABULARY.version, claims=(Claim("category", "none such", 1.0, "x"),))},
            "vocabulary",
            "none such",
        ),
    ],
)
def test_record_that_the_table_cannot_hold_is_rejected_alone(changes: dict[str, object], reason: str, message: str) -> None:
    table = build_table(item(1))
    vectors = table.snapshot.vectors

    [rejection] = table.apply([item(1, event_time_ms=9, **changes), item(2)])

    assert rejection.record.item_id == "i1"
    assert rejection.error.reason == reason and message in str(rejection.error)
    assert torch.equal(table.snapshot.vectors[: len(vectors)], vectors) and table.knows("i2")
    assert table.version("i1") == item(1).version, "a later, valid record of the item is applied"


def test_item_is_known_only_once_the_snapshot_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise whoever asks during an update would count the item's events for the unknown item."""
    table = build_table(item(1))
    during_update = []
    update = table._updated

    def updated(*arguments: Any) -> Snapshot:
        snapshot = update(*arguments)
        during_update.append((table.knows("i2"), table.snapshot.rows(["i2"]).tolist()))
        return snapshot

    monkeypatch.setattr(table, "_updated", updated)
    table.apply([item(2)])

    assert during_update == [(False, [0])] and table.knows("i2") and not table.knows("")


def test_sequences_are_right_aligned() -> None:
    sequences = build_sequences([request(3).history], [NOW_MS], CATALOG.snapshot, length=6)

    assert sequences.rows[0, :2].tolist() == [0, 0]
    assert sequences.rows[0, 2:].tolist() == CATALOG.snapshot.rows(request(3).history.item_ids).tolist()
    assert sequences.gaps[0].tolist() == [0, 0, 7, 7, 6, 5]  # four, three, two days and one in hours, by powers of two


def test_attention_ignores_positions_with_a_gate_of_zero() -> None:
    attention = TargetAttention(8)
    candidates, sequence = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    gate = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    changed = sequence.clone()
    changed[0, 1] = 100.0

    assert torch.allclose(attention(candidates, sequence, gate), attention(candidates, changed, gate), atol=1e-5)
    assert (attention(candidates, sequence, torch.zeros(1, 4)) == 0).all()
