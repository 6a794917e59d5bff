"""Interaction logs: a data set's catalog as dense tensors, and its baskets, each with the history before it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.datasets.online_retail import Order, Retail
from reaseq.behavior.examples import Basket
from reaseq.behavior.history import TYPE_CODES, Behavior, build_history
from reaseq.declaration import Declaration
from reaseq.declaration.declaration import NOTHING_DECLARED
from reaseq.knowledge.content import digest
from reaseq.records import Item, ProductKnowledge
from reaseq.representation.attributes import build_attributes
from reaseq.representation.contents import Contents
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import NO_PRICE, Snapshot, build_snapshot


@dataclass(frozen=True)
class InteractionLog:
    """A catalog and what was bought from it.

    Attributes:
        table: row 0 is the unknown item; the other rows are in order of item id, like `items`.
        claims: number of label ids in the table, including 0 for padding.
        baskets: in order of time.
        text: vectors (len(items), D) of the items' texts, without knowledge.
        answers: a language model's answer for each item, if any were recorded.
    """

    name: str
    table: Snapshot
    claims: int
    baskets: tuple[Basket, ...]
    items: tuple[Item, ...]
    text: NDArray[np.float32]
    answers: tuple[ProductKnowledge | None, ...] = ()

    def between(self, start_ms: int, end_ms: int) -> tuple[Basket, ...]:
        """The baskets of [start, end)."""
        return tuple(basket for basket in self.baskets if start_ms <= basket.time_ms < end_ms)


def encode_cached(texts: Sequence[str], encoder: Encoder, cache: Path) -> NDArray[np.float32]:
    """Vectors (N, D), cached in a file: encoding twelve thousand titles takes minutes."""
    file = cache / f"vectors-{digest(encoder.space_id, *texts)}.npy"
    if file.exists():
        stored: NDArray[np.float32] = np.load(file)
        return stored
    vectors = encoder.encode(texts)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(file, vectors)
    return vectors


def build_table(items: Sequence[Item], contents: Contents, declaration: Declaration = NOTHING_DECLARED) -> Snapshot:
    """An item table of `items` with their declared attributes, after a first row for the unknown item.

    `contents` must have that row too.
    """
    values = [declaration.read_item(attributes) for attributes in ({}, *(item.attributes for item in items))]
    contents = replace(contents, attributes=build_attributes(declaration.item_fields, values))
    prices = [NO_PRICE if item.price is None else item.price for item in items]
    return build_snapshot(
        ["", *(item.item_id for item in items)],
        contents,
        prices=torch.tensor([NO_PRICE, *prices]),
        listed_ms=torch.tensor([0, *(item.event_time_ms for item in items)]),
        live=torch.arange(len(items) + 1) > 0,
    )


def build_baskets(retail: Retail, limit: int) -> tuple[Basket, ...]:
    """Every order with the latest `limit` behaviors strictly before it."""
    behaviors: dict[str, list[Behavior]] = defaultdict(list)
    baskets = []
    for order in retail.orders:
        before = behaviors[order.user_id]
        baskets.append(Basket(order.user_id, order.time_ms, order.item_ids, build_history(before)))
        before += _to_behaviors(order)
        del before[:-limit]
    return tuple(baskets)


def sort_by_id(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items in order of item id."""
    return tuple(sorted(items, key=lambda item: item.item_id))


def _to_behaviors(order: Order) -> list[Behavior]:
    return [Behavior(order.time_ms, index, item_id, TYPE_CODES["purchase"]) for index, item_id in enumerate(order.item_ids)]
