"""A made-up interaction log over the fake catalog: users who buy two random items every other day."""

from dataclasses import replace

import numpy as np

from evaluation.datasets.interaction_log import InteractionLog
from reaseq.behavior.examples import Basket
from reaseq.behavior.history import event_key
from reaseq.days import DAY_MS
from reaseq.records import History, Item
from tests.fakes.catalog import CATALOG, DIM, ITEMS, NOW_MS, VOCABULARY

TABLE = CATALOG.snapshot.by_id()


def build_log(users: int = 30, days: int = 40) -> InteractionLog:
    """Each basket carries the whole history before it."""
    generator = np.random.default_rng(0)
    baskets = []
    bought: dict[str, list[tuple[str, int]]] = {}
    for day in range(days):
        for user in range(day % 2, users, 2):
            time_ms = NOW_MS + day * DAY_MS + user
            item_ids = tuple(f"i{n}" for n in generator.choice(60, 2, replace=False))
            before = bought.setdefault(f"u{user}", [])
            history = History(
                item_ids=tuple(i for i, _ in before),
                types=(4,) * len(before),
                times_ms=tuple(t for _, t in before),
                event_keys=tuple(event_key(f"{i}{t}") for i, t in before),
            )
            baskets.append(Basket(f"u{user}", time_ms, item_ids, history))
            before += [(item_id, time_ms) for item_id in item_ids]
    items = tuple(Item(item_id=item_id, title=f"thing {item_id}", event_time_ms=1) for item_id in TABLE.ids[1:])
    return InteractionLog("made up", TABLE, VOCABULARY.size, tuple(baskets), items, np.zeros((ITEMS, DIM), np.float32))


def change_log_from(log: InteractionLog, from_ms: int) -> InteractionLog:
    """The same log until `from_ms`, and other baskets after it."""
    baskets = (b if b.time_ms < from_ms else Basket(b.user_id, b.time_ms, ("i7", "i9"), b.history) for b in log.baskets)
    return replace(log, baskets=tuple(baskets))
