"""Amazon product data 2014, Beauty 5-core, as a catalog and orders (McAuley et al. 2015; He and McAuley 2016).

The files are not bundled. Events are reviews, dated by the day: an order is what a user reviewed on one day, and an item counts
as listed on the day of its first review.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluation.datasets.online_retail import Order, Retail
from evaluation.leave_one_out import UserSequences
from reaseq.days import DAY_MS
from reaseq.records import Event, Item

CATEGORY_LEVELS = 6


def read_beauty(folder: Path) -> Retail:
    """Items with brand and categories as attributes, and orders, both in order of time."""
    reviews = pq.read_table(folder / "interactions.parquet")
    days_ms = reviews["timestamp"].cast(pa.timestamp("ms")).cast(pa.int64()).to_pylist()
    rows = sorted(zip(days_ms, reviews["user_id"].to_pylist(), reviews["asin"].to_pylist(), strict=True))
    listed: dict[str, int] = {}
    baskets: dict[tuple[int, str], list[str]] = defaultdict(list)
    for time_ms, user_id, item_id in rows:
        listed.setdefault(item_id, time_ms)
        baskets[time_ms, user_id].append(item_id)
    catalog = pq.read_table(folder / "items.parquet")
    listed_rows = catalog.filter(pc.is_in(catalog["asin"], pa.array(list(listed), pa.large_string()))).to_pylist()
    items = [_to_item(row, listed[row["asin"]]) for row in listed_rows]
    orders = [Order(user_id, time_ms, tuple(_to_events(user_id, time_ms, ids))) for (time_ms, user_id), ids in baskets.items()]
    return Retail(tuple(sorted(items, key=lambda item: (item.event_time_ms, item.item_id))), tuple(orders))


def read_sequences(folder: Path) -> tuple[UserSequences, tuple[Item, ...]]:
    """The items of each user in order of days and, within a day, of the file; and the items, whose first one has row 1."""
    reviews = pq.read_table(folder / "interactions.parquet")
    days = reviews["timestamp"].cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy() // DAY_MS
    _, users = np.unique(reviews["user_id"].to_pylist(), return_inverse=True)
    item_ids, rows = np.unique(reviews["asin"].to_pylist(), return_inverse=True)
    order = np.lexsort((days, users))  # a stable sort
    starts = np.flatnonzero(np.diff(users[order])) + 1
    rows_by_user, days_by_user = (tuple(np.split(column[order], starts)) for column in (rows + 1, days))
    catalog = pq.read_table(folder / "items.parquet").to_pylist()
    listed = {row["asin"]: _to_item(row, 0) for row in catalog}
    sequences = UserSequences(rows_by_user, days_by_user, items=len(item_ids) + 1)
    return sequences, tuple(listed[item_id] for item_id in item_ids.tolist())


def _to_item(row: dict[str, object], listed_ms: int) -> Item:
    categories = [str(name) for name in row["categories"] or ()][:CATEGORY_LEVELS]  # type: ignore[attr-defined]
    attributes = {f"category {level}": name for level, name in enumerate(categories, start=1)}
    if row["brand"]:
        attributes["brand"] = str(row["brand"])
    price = row["price"]
    return Item(
        item_id=str(row["asin"]),
        title=str(row["title"] or row["asin"]),
        attributes=attributes,
        price=None if price is None or price != price else float(price),  # type: ignore[arg-type]
        event_time_ms=listed_ms,
    )


def _to_events(user_id: str, time_ms: int, item_ids: Sequence[str]) -> list[Event]:
    return [
        Event(event_id=f"{user_id}-{time_ms}-{index}", user_id=user_id, item_id=item_id, type="purchase", event_time_ms=time_ms)
        for index, item_id in enumerate(item_ids)
    ]
