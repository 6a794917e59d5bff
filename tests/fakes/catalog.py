"""A small catalog of random items, and users with histories of them, shared by several unit tests."""

import numpy as np

from reaseq import float16
from reaseq.behavior.history import InferenceRequest
from reaseq.days import DAY_MS
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import Claim, History, ItemFeatures, ProductKnowledge
from reaseq.representation.item_table import ItemTable

DIM, ITEMS, NOW_MS = 16, 300, 10_000 * DAY_MS
VOCABULARY = load_vocabulary("giftware-3")


def item(number: int, **changes: object) -> ItemFeatures:
    """A reasoned item `i<number>`; its vector and its one claim depend only on the number."""
    vector = np.random.default_rng(number).normal(size=DIM)
    category = VOCABULARY.groups[0]
    claim = Claim(category.name, list(category.values)[number % len(category.values)], 1.0, "fake")
    fields = {
        "event_time_ms": 1,
        "listed_ms": 1,
        "status": "reasoned",
        "space_id": "s",
        "vector": float16.pack(vector / np.linalg.norm(vector)),
        "knowledge": ProductKnowledge(vocabulary=VOCABULARY.version, claims=(claim,)),
    }
    return ItemFeatures(**({"item_id": f"i{number}"} | fields | changes))  # type: ignore[arg-type]


def build_table(*items: ItemFeatures) -> ItemTable:
    """An item table with the items."""
    table = ItemTable(VOCABULARY, "s", DIM)
    assert not table.apply(items)
    return table


def request(seed: int) -> InferenceRequest:
    """An inference request as of `NOW_MS` for a user with 1 to 20 random items, one a day."""
    rows = np.random.default_rng(seed).choice(ITEMS, size=seed % 20 + 1, replace=False)
    times = tuple(NOW_MS - DAY_MS * back for back in range(len(rows), 0, -1))
    history = History(
        item_ids=tuple(f"i{row}" for row in rows), types=(4,) * len(rows), times_ms=times, event_keys=tuple(range(len(rows)))
    )
    return InferenceRequest(history, NOW_MS, len(rows))


CATALOG = build_table(*(item(number) for number in range(ITEMS)))
