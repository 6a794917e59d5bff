"""Stand-ins that several unit tests share: a small catalog of random items, and users with histories over it."""

import numpy as np

from reaseq.behavior.history import InferenceRequest
from reaseq.days import DAY_MS
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import Claim, History, ItemFeatures, ProductKnowledge
from reaseq.representation.item_table import ItemTable

DIM, ITEMS, NOW_MS = 16, 300, 1_000 * DAY_MS
VOCABULARY = load_vocabulary("giftware-2")


def item(number: int, **changes: object) -> ItemFeatures:
    """A reasoned item `i<number>` whose vector and one claim hang on its number."""
    vector = np.random.default_rng(number).normal(size=DIM)
    category = VOCABULARY.groups[0]
    claim = Claim(category.name, list(category.values)[number % len(category.values)], 1.0, "stand-in")
    fields = {
        "event_time_ms": 1,
        "listed_ms": 1,
        "status": "reasoned",
        "space_id": "s",
        "vector": (vector / np.linalg.norm(vector)).astype(np.float16).tobytes(),
        "knowledge": ProductKnowledge(vocabulary=VOCABULARY.version, claims=(claim,)),
    }
    return ItemFeatures(item_id=f"i{number}", **(fields | changes))  # type: ignore[arg-type]


def table_of(*items: ItemFeatures) -> ItemTable:
    """A table that holds the items."""
    table = ItemTable(VOCABULARY, "s", DIM)
    table.apply(items)
    return table


def request(seed: int) -> InferenceRequest:
    """A user with a history of 1 to 20 random items, a day apart, asked about now."""
    rows = np.random.default_rng(seed).choice(ITEMS, size=seed % 20 + 1, replace=False)
    times = tuple(NOW_MS - DAY_MS * back for back in range(len(rows), 0, -1))
    history = History(
        item_ids=tuple(f"i{row}" for row in rows), types=(4,) * len(rows), times_ms=times, event_keys=tuple(range(len(rows)))
    )
    return InferenceRequest(history, NOW_MS, len(rows))


CATALOG = table_of(*(item(number) for number in range(ITEMS)))
