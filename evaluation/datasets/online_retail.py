"""UCI Online Retail as a catalog and a stream of events (Chen, Sain and Guo 2012, CC BY 4.0).

An item is listed when its first order line appears. The data has no earlier listing time, so the first sale cannot be
predicted and is not evaluated, and an item's age would be an unfair feature. An item's title is its most frequent description
so far: when that changes, the item is listed again with new content.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reaseq.records import Event, Item


@dataclass(frozen=True)
class Order:
    """What one customer bought in one minute."""

    user_id: str
    time_ms: int
    events: tuple[Event, ...]

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The distinct items, in order of the lines."""
        return tuple(dict.fromkeys(event.item_id for event in self.events))


@dataclass(frozen=True)
class Retail:
    """A shop's listings and orders, both in order of time."""

    items: tuple[Item, ...]
    orders: tuple[Order, ...]

    def between(self, start_ms: int, end_ms: int) -> "Retail":
        """The listings and orders of [start, end)."""
        return Retail(
            tuple(item for item in self.items if start_ms <= item.event_time_ms < end_ms),
            tuple(order for order in self.orders if start_ms <= order.time_ms < end_ms),
        )


class _Line(NamedTuple):
    invoice: int
    time_ms: int
    customer: int
    item_id: str
    title: str
    quantity: int
    price: float


def read_retail(path: Path, customers_share: float = 1.0, since_ms: int = 0) -> Retail:
    """Read the order lines from `since_ms` on, for a share of the customers; a share always selects the same customers."""
    table = pq.read_table(path)
    if since_ms:
        since = pa.scalar(datetime.fromtimestamp(since_ms / 1000, UTC), table["time"].type)
        table = table.filter(pc.greater_equal(table["time"], since))
    if customers_share < 1:
        # Knuth's multiplicative hash: an even share, and the same customers in every run.
        hashed = table["customer"].to_numpy().astype(np.uint64) * 2654435761 % 2**32
        table = table.filter(pa.array(hashed < customers_share * 2**32))
    seconds = table["time"].cast(pa.timestamp("s", tz="UTC")).cast(pa.int64())
    columns = [table[name].to_pylist() for name in ("invoice", "customer", "item", "title", "quantity", "price")]
    invoices, customers, items, titles, quantities, prices = columns
    times_ms = [second * 1000 for second in seconds.to_pylist()]
    lines = list(map(_Line, invoices, times_ms, customers, items, titles, quantities, prices))
    return Retail(tuple(_items(lines)), tuple(_orders(lines)))


def _items(lines: Sequence[_Line]) -> Iterator[Item]:
    titles: dict[str, Counter[str]] = defaultdict(Counter)
    current: dict[str, str] = {}
    for line in lines:
        seen = titles[line.item_id]
        seen[line.title] += 1
        title = current.get(line.item_id)
        if title is None or (line.title != title and seen[line.title] > seen[title]):
            current[line.item_id] = line.title
            yield Item(item_id=line.item_id, title=line.title, price=round(line.price, 2), event_time_ms=line.time_ms)


def _orders(lines: Sequence[_Line]) -> Iterator[Order]:
    # One order for each customer and minute, the resolution of the data (a few invoices span two minutes, and a few minutes
    # hold two invoices), so that a history always ends strictly before its basket.
    baskets: dict[tuple[int, int], list[_Line]] = defaultdict(list)
    for line in lines:
        baskets[line.time_ms, line.customer].append(line)
    for (time_ms, customer), basket in sorted(baskets.items()):
        minute = time_ms // 60_000
        yield Order(
            user_id=str(customer),
            time_ms=time_ms,
            events=tuple(
                Event(
                    event_id=f"{line.invoice}-{minute}-{index}",
                    user_id=str(customer),
                    item_id=line.item_id,
                    type="purchase",
                    event_time_ms=time_ms,
                    quantity=float(line.quantity),
                )
                for index, line in enumerate(basket)
            ),
        )
