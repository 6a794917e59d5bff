"""MIND (Wu et al. 2020), the part of it that is at hand: news, and impressions with what was clicked and what was not.

The files are not bundled. The test rows bear no time, only their day; the histories bear none at all: both stand where the
files' days put them, and no gap between behaviors says anything. News without text keep their row, with nothing said of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from reaseq.behavior.examples import Basket
from reaseq.behavior.history import Behavior, build_history
from reaseq.days import DAY_MS, time_ms
from reaseq.records import Item

TEST_DAY = "2019-11-15"
CLICK = 2  # the code of the event type


@dataclass(frozen=True)
class Impression:
    """What was shown to a user at one instance: a basket of what was clicked, and what was not."""

    basket: Basket
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Mind:
    """The catalog and the impressions, in order of time."""

    items: tuple[Item, ...]
    train: tuple[Impression, ...]
    test: tuple[Impression, ...]


def read_mind(folder: Path) -> Mind:
    """Read the three parquet files."""
    train, test = (pq.read_table(folder / f"impressions_{part}.parquet").to_pylist() for part in ("train", "test"))
    impressions = sorted((_impression(row, row["time"] * 1000) for row in train), key=lambda of: of.basket.time_ms)
    judged = [_impression(row | {"user_id": f"test {place}"}, time_ms(TEST_DAY)) for place, row in enumerate(test)]
    items = {row["news_id"]: _item(row) for row in pq.read_table(folder / "news.parquet").to_pylist()}
    for impression in (*impressions, *judged):
        for item_id in (*impression.shown, *impression.basket.item_ids, *impression.basket.history.item_ids):
            items.setdefault(item_id, Item(item_id=item_id, title=item_id, event_time_ms=0))
    return Mind(tuple(items[item_id] for item_id in sorted(items)), tuple(impressions), tuple(judged))


def _item(row: dict[str, Any]) -> Item:
    told = {"category": row["category"], "subcategory": row["subcategory"], "abstract": (row["abstract"] or "")[:900]}
    return Item(
        item_id=row["news_id"],
        title=(row["title"] or row["news_id"])[:900],
        attributes={name: text for name, text in told.items() if text},
        event_time_ms=0,
    )


def _impression(row: dict[str, Any], at_ms: int) -> Impression:
    clicked = np.array(row["clicked"], bool)
    shown = np.array(row["candidates"], object)
    behaviors = [Behavior(at_ms - DAY_MS, place, item_id, CLICK) for place, item_id in enumerate(row["history"] or ())]
    basket = Basket(row["user_id"], at_ms, _ids(shown[clicked]), build_history(behaviors))
    return Impression(basket, _ids(shown[~clicked]))


def _ids(found: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))
