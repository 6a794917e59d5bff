"""A public data set as an evaluation reads it: the catalog as dense tensors, and baskets with the history before each."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.datasets.amazon_beauty import read_beauty
from evaluation.datasets.online_retail import Order, Retail, read_retail
from evaluation.item_labels import attributes, build_item_labels
from reaseq.behavior.examples import Basket
from reaseq.behavior.history import Behavior, build_history
from reaseq.knowledge.content import Content, digest
from reaseq.knowledge.guard import enrich
from reaseq.knowledge.recorded import read_answers
from reaseq.knowledge.vocabulary import CLAIMS_LIMIT, Vocabulary
from reaseq.records import Item, ProductKnowledge
from reaseq.representation.contents import Contents
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import NO_PRICE, Snapshot, build_snapshot

SIDE = ("brand", "category")  # attributes that are shared ids without any reasoning


@dataclass(frozen=True)
class InteractionLog:
    """What was on sale and what was taken. Row 0 of the table is no item; rows are in order of item id, like `items`."""

    name: str
    table: Snapshot
    claims: int  # shared ids, with 0 for padding
    baskets: tuple[Basket, ...]  # in order of time
    items: tuple[Item, ...]
    text: NDArray[np.float32]  # (len(items), D) vectors of their texts alone
    answers: tuple[ProductKnowledge | None, ...] = ()  # what a language model said of each

    def between(self, start_ms: int, end_ms: int) -> tuple[Basket, ...]:
        """The baskets of [start, end)."""
        return tuple(basket for basket in self.baskets if start_ms <= basket.time_ms < end_ms)


def online_retail(
    order_lines: Path, answers: Path, vocabulary: Vocabulary, encoder: Encoder, cache: Path, known_ms: int, history: int
) -> InteractionLog:
    """Online Retail with a language model's recorded claims. An item's text is the newest by `known_ms`, else its first."""
    retail = read_retail(order_lines)
    recorded = {content.hash: knowledge for content, knowledge in read_answers(answers, vocabulary)}
    items = _by_id(_latest_listings(retail.items, known_ms))
    contents = [Content.from_listing(item.title, item.attributes) for item in items]
    knowledge = tuple(recorded.get(content.hash) for content in contents)
    text = encoded([content.text for content in contents], encoder, cache)
    profile = encoded([_profile(answer) for answer in knowledge], encoder, cache)
    vectors = np.stack([enrich(t, p) if k and k.profile else t for t, p, k in zip(text, profile, knowledge, strict=True)])
    ids = torch.zeros(len(items) + 1, CLAIMS_LIMIT, dtype=torch.long)
    for row, answer in enumerate(knowledge, start=1):
        said = vocabulary.claim_ids(answer)[0]
        ids[row, : len(said)] = torch.from_numpy(said.astype(np.int64))
    build_contents = Contents(torch.from_numpy(np.concatenate([np.zeros_like(vectors[:1]), vectors])), ids, (ids > 0).float())
    table = table_of(items, build_contents)
    return InteractionLog("online-retail", table, vocabulary.size, _baskets(retail, history), items, text, knowledge)


def amazon_beauty(folder: Path, encoder: Encoder, cache: Path, since_ms: int, history: int) -> InteractionLog:
    """Amazon Beauty from `since_ms` on, with brand and categories in the place of claims."""
    beauty = read_beauty(folder)
    items = _by_id(beauty.items)
    text = encoded([Content.from_listing(item.title, item.attributes).text for item in items], encoder, cache)
    told = build_item_labels(attributes(items, SIDE), torch.from_numpy(text))
    baskets = tuple(basket for basket in _baskets(beauty, history) if basket.time_ms >= since_ms)
    return InteractionLog("amazon-beauty", table_of(items, told.contents), told.claims, baskets, items, text)


def _by_id(items: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(sorted(items, key=lambda item: item.item_id))


def _latest_listings(listings: Sequence[Item], known_ms: int) -> list[Item]:
    """One listing an item, with the time of its first."""
    chosen: dict[str, Item] = {}
    first: dict[str, int] = {}
    for item in listings:
        first.setdefault(item.item_id, item.event_time_ms)
        if item.item_id not in chosen or item.event_time_ms < known_ms:
            chosen[item.item_id] = item
    return [
        Item(item_id=i.item_id, title=i.title, price=i.price, attributes=i.attributes, event_time_ms=first[i.item_id])
        for i in chosen.values()
    ]


def _profile(answer: ProductKnowledge | None) -> str:
    return answer.profile if answer else ""


def encoded(texts: Sequence[str], encoder: Encoder, cache: Path) -> NDArray[np.float32]:
    """Vectors (N, D), kept in a file: encoding twelve thousand titles takes minutes."""
    kept = cache / f"vectors-{digest(encoder.space_id, *texts)}.npy"
    if kept.exists():
        stored: NDArray[np.float32] = np.load(kept)
        return stored
    vectors = encoder.encode(texts)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(kept, vectors)
    return vectors


def table_of(items: Sequence[Item], contents: Contents) -> Snapshot:
    """Items and what is said of them, each behind a row for the unknown item."""
    prices = [NO_PRICE if item.price is None else item.price for item in items]
    return build_snapshot(
        ["", *(item.item_id for item in items)],
        contents,
        prices=torch.tensor([NO_PRICE, *prices]),
        listed_ms=torch.tensor([0, *(item.event_time_ms for item in items)]),
        live=torch.arange(len(items) + 1) > 0,
    )


def _baskets(retail: Retail, limit: int) -> tuple[Basket, ...]:
    """Every order with the latest `limit` behaviors strictly before it."""
    held: dict[str, list[Behavior]] = defaultdict(list)
    baskets = []
    for order in retail.orders:
        before = held[order.user_id]
        baskets.append(Basket(order.user_id, order.time_ms, order.item_ids, build_history(before)))
        before += _behaviors(order)
        del before[:-limit]
    return tuple(baskets)


def _behaviors(order: Order) -> list[Behavior]:
    return [Behavior(order.time_ms, place, item_id, 4) for place, item_id in enumerate(order.item_ids)]
