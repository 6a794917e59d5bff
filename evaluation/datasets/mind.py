"""Part of MIND (Wu et al. 2020): news, and impressions with the news that was clicked and the news that was not.

The files are not bundled. Test impressions carry no time, only their day, and histories carry no times at all. Test impressions
are placed at the start of their day and histories a day before their impression, so the gaps between behaviors mean nothing.
News articles without text keep their row, with no labels and a zero vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from reaseq.behavior.examples import Basket
from reaseq.behavior.history import TYPE_CODES, Behavior, build_history
from reaseq.days import DAY_MS, time_ms
from reaseq.records import Item

TEST_DAY = "2019-11-15"
TEXT_CHARS = 900


@dataclass(frozen=True)
class Impression:
    """The news shown to a user at once: `basket` has what was clicked, `shown` what was not."""

    basket: Basket
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Mind:
    """The catalog and the impressions, in order of time."""

    items: tuple[Item, ...]
    train: tuple[Impression, ...]
    test: tuple[Impression, ...]


def read_mind(folder: Path) -> Mind:
    """Read `news.parquet`, `impressions_train.parquet` and `impressions_test.parquet`."""
    train, test = (pq.read_table(folder / f"impressions_{part}.parquet").to_pylist() for part in ("train", "test"))
    trained = sorted(
        (_to_impression(row, row["time"] * 1000) for row in train), key=lambda impression: impression.basket.time_ms
    )
    tested = [_to_impression(row | {"user_id": f"test {index}"}, time_ms(TEST_DAY)) for index, row in enumerate(test)]
    items = {row["news_id"]: _to_item(row) for row in pq.read_table(folder / "news.parquet").to_pylist()}
    for impression in (*trained, *tested):
        for item_id in (*impression.shown, *impression.basket.item_ids, *impression.basket.history.item_ids):
            items.setdefault(item_id, Item(item_id=item_id, title=item_id, event_time_ms=0))
    return Mind(tuple(items[item_id] for item_id in sorted(items)), tuple(trained), tuple(tested))


def _to_item(row: dict[str, Any]) -> Item:
    texts = {
        "category": row["category"],
        "subcategory": row["subcategory"],
        "abstract": (row["abstract"] or "")[:TEXT_CHARS],
    }
    return Item(
        item_id=row["news_id"],
        title=(row["title"] or row["news_id"])[:TEXT_CHARS],
        attributes={name: text for name, text in texts.items() if text},
        event_time_ms=0,
    )


def _to_impression(row: dict[str, Any], at_ms: int) -> Impression:
    clicked = np.array(row["clicked"], bool)
    shown = np.array(row["candidates"], object)
    behaviors = [
        Behavior(at_ms - DAY_MS, index, item_id, TYPE_CODES["click"]) for index, item_id in enumerate(row["history"] or ())
    ]
    basket = Basket(row["user_id"], at_ms, _drop_duplicates(shown[clicked]), build_history(behaviors))
    return Impression(basket, _drop_duplicates(shown[~clicked]))


def _drop_duplicates(item_ids: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item_ids))
