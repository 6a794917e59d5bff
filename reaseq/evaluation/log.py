"""A public data set as an evaluation reads it: the catalogue as dense tensors, and baskets with the history before each."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reaseq.behavior.examples import Basket
from reaseq.behavior.history import Behavior, history_of
from reaseq.evaluation.amazon_beauty import read_beauty
from reaseq.evaluation.online_retail import Order, Retail, read_retail
from reaseq.knowledge.content import Content, digest
from reaseq.knowledge.guard import enrich
from reaseq.knowledge.recorded import read_answers
from reaseq.knowledge.vocabulary import CLAIMS_LIMIT, vocabulary_in_force
from reaseq.records import Item, ProductKnowledge
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import NO_PRICE, Snapshot

LEAST_SHARED = 3  # items that must bear a brand or category for it to be a shared id


@dataclass(frozen=True)
class Log:
    """What was on sale and what was taken. Row 0 of the table is no item; rows are in order of item id."""

    name: str
    table: Snapshot
    claims: int  # shared ids, with 0 for padding
    baskets: tuple[Basket, ...]  # in order of time

    def between(self, start_ms: int, end_ms: int) -> tuple[Basket, ...]:
        """The baskets of [start, end)."""
        return tuple(basket for basket in self.baskets if start_ms <= basket.time_ms < end_ms)


def online_retail(order_lines: Path, answers: Path, encoder: Encoder, cache: Path, known_ms: int, history: int) -> Log:
    """Online Retail with a language model's recorded claims. An item's text is the newest by `known_ms`, else its first."""
    retail = read_retail(order_lines)
    vocabulary = vocabulary_in_force()
    recorded = {content.hash: knowledge for content, knowledge in read_answers(answers, vocabulary)}
    items = _as_of(retail.items, known_ms)
    contents = [Content.of(item.title, item.attributes) for item in items]
    knowledge = [recorded.get(content.hash) for content in contents]
    text = _encoded([content.text for content in contents], encoder, cache)
    profile = _encoded([_profile(answer) for answer in knowledge], encoder, cache)
    vectors = np.stack([enrich(t, p) if k and k.profile else t for t, p, k in zip(text, profile, knowledge, strict=True)])
    claims = [vocabulary.claim_ids(answer)[0].astype(np.int64) for answer in knowledge]
    return Log("online-retail", _table(items, vectors, claims), vocabulary.size, _baskets(retail, history))


def amazon_beauty(folder: Path, encoder: Encoder, cache: Path, since_ms: int, history: int) -> Log:
    """Amazon Beauty from `since_ms` on, with brand and categories in the place of claims."""
    beauty = read_beauty(folder)
    texts = [Content.of(item.title, item.attributes).text for item in beauty.items]
    shared = Counter(f"{name}={text}" for item in beauty.items for name, text in item.attributes.items())
    numbers = {label: number for number, label in enumerate(sorted(k for k, n in shared.items() if n >= LEAST_SHARED), start=1)}
    claims = [
        np.array([numbers[label] for label in (f"{n}={t}" for n, t in item.attributes.items()) if label in numbers], np.int64)
        for item in beauty.items
    ]
    table = _table(beauty.items, _encoded(texts, encoder, cache), claims)
    baskets = tuple(basket for basket in _baskets(beauty, history) if basket.time_ms >= since_ms)
    return Log("amazon-beauty", table, len(numbers) + 1, baskets)


def _as_of(listings: Sequence[Item], known_ms: int) -> list[Item]:
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


def _encoded(texts: Sequence[str], encoder: Encoder, cache: Path) -> NDArray[np.float32]:
    """Vectors (N, D), kept in a file: encoding twelve thousand titles takes minutes."""
    kept = cache / f"vectors-{digest(encoder.space_id, *texts)}.npy"
    if kept.exists():
        stored: NDArray[np.float32] = np.load(kept)
        return stored
    vectors = encoder.encode(texts)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(kept, vectors)
    return vectors


def _table(items: Sequence[Item], vectors: NDArray[np.float32], claims: Sequence[NDArray[np.int64]]) -> Snapshot:
    order = sorted(range(len(items)), key=lambda place: items[place].item_id)
    ids = ["", *(items[place].item_id for place in order)]
    numbers = torch.zeros(len(ids), CLAIMS_LIMIT, dtype=torch.long)
    for row, place in enumerate(order, start=1):
        numbers[row, : len(claims[place])] = torch.from_numpy(claims[place][:CLAIMS_LIMIT])
    prices = [items[place].price for place in order]
    live = torch.ones(len(ids), dtype=torch.bool)
    live[0] = False
    return Snapshot(
        ids=ids,
        index={item_id: row for row, item_id in enumerate(ids) if row},
        vectors=torch.cat([torch.zeros(1, vectors.shape[1]), torch.from_numpy(vectors[order])]),
        claims=numbers,
        confidences=(numbers > 0).float(),
        prices=torch.tensor([NO_PRICE, *(NO_PRICE if price is None else price for price in prices)]),
        listed_ms=torch.tensor([0, *(items[place].event_time_ms for place in order)]),
        live=live,
    )


def _baskets(retail: Retail, limit: int) -> tuple[Basket, ...]:
    """Every order with the latest `limit` behaviours strictly before it."""
    held: dict[str, list[Behavior]] = defaultdict(list)
    baskets = []
    for order in retail.orders:
        before = held[order.user_id]
        baskets.append(Basket(order.user_id, order.time_ms, order.item_ids, history_of(before)))
        before += _behaviors(order)
        del before[:-limit]
    return tuple(baskets)


def _behaviors(order: Order) -> list[Behavior]:
    return [Behavior(order.time_ms, place, item_id, 4) for place, item_id in enumerate(order.item_ids)]
