"""Item labels from attributes, title words and claims."""

import pytest
import torch

from evaluation.item_labels import attribute_labels, build_item_labels, claim_labels, combine_labels, title_words
from reaseq.records import Claim, Item, ProductKnowledge
from tests.fakes.catalog import DIM


def test_shared_labels_get_ids_and_rare_ones_are_dropped() -> None:
    labels = [[("a", 1.0), ("b", 0.5)], [("a", 1.0)], [("a", 0.2), ("rare", 1.0)], []]
    item_labels = build_item_labels(labels, torch.ones(4, DIM))

    contents = item_labels.contents
    assert item_labels.claims == 2 and contents.claims[:, 0].tolist() == [0, 1, 1, 1, 0]
    assert contents.confidences[:, 0].tolist() == pytest.approx([0, 1, 1, 0.2, 0])
    assert (contents.vectors[0] == 0).all() and (contents.vectors[1:] == 1).all()


def test_labels_come_from_attributes_words_and_claims() -> None:
    items = [
        Item(item_id="1", title="RED Mug 4 cm", attributes={"brand": "X", "category 1": "Y", "abstract": "Z"}, event_time_ms=1),
        *(Item(item_id=str(n), title="mug", event_time_ms=1) for n in range(2, 9)),
    ]
    answer = ProductKnowledge(vocabulary="v", claims=(Claim("style", "retro", 0.7, "r"),))

    assert attribute_labels(items, ("brand", "category"))[0] == [("brand=X", 1.0), ("category 1=Y", 1.0)]
    assert title_words(items)[0] == [("word=red", 1.0)]  # most titles contain "mug"
    assert claim_labels([answer, None]) == [[("style=retro", 0.7)], []]
    assert combine_labels([[("a", 1.0)]], [[("b", 1.0)]]) == [[("a", 1.0), ("b", 1.0)]]
