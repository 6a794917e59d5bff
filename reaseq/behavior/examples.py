"""Baskets as training examples: the history before a basket is the prompt, its new items are the response."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reaseq.behavior.diffusion import Canvas
from reaseq.behavior.sequence import Sequences, build_sequences, to_month
from reaseq.behavior.token_table import ABSENT, TokenTable
from reaseq.records import History
from reaseq.representation.item_table import Snapshot

LATEST = 8  # the partners of a basket's items are drawn from this many behaviors before it


@dataclass(frozen=True)
class Basket:
    """The items of one user at one time, and the history strictly before it."""

    user_id: str
    time_ms: int
    item_ids: tuple[str, ...]
    history: History


@dataclass(frozen=True)
class BehaviorExamples:
    """n baskets as tensors."""

    history: Sequences  # (n, H)
    response: Tensor  # (n, K) rows of the new items in the basket, padded with ABSENT
    times_ms: Tensor  # (n,)

    def __getitem__(self, index: Tensor) -> "BehaviorExamples":
        return BehaviorExamples(self.history[index], self.response[index], self.times_ms[index])

    def __len__(self) -> int:
        return len(self.response)

    def to(self, device: torch.device) -> "BehaviorExamples":
        """A copy on a device."""
        return BehaviorExamples(self.history.to(device), self.response.to(device), self.times_ms.to(device))


def new_items(basket: Basket) -> list[str]:
    """The items of the basket that are not in the history."""
    known = set(basket.history.item_ids)
    return [item_id for item_id in basket.item_ids if item_id not in known]


def trainable(baskets: Sequence[Basket]) -> list[Basket]:
    """The baskets that can be learned from: they have a history and a new item."""
    return [basket for basket in baskets if basket.history.item_ids and new_items(basket)]


def build_examples(baskets: Sequence[Basket], table: Snapshot, history: int, response: int, seed: int = 0) -> BehaviorExamples:
    """Baskets as tensors: the latest `history` behaviors, and up to `response` new items, at random if there are more."""
    generator = torch.Generator().manual_seed(seed)
    times_ms = [basket.time_ms for basket in baskets]
    sequences = build_sequences([basket.history for basket in baskets], times_ms, table, history)
    responses = torch.full((len(baskets), response), ABSENT)
    for index, basket in enumerate(baskets):
        rows = table.rows(new_items(basket))
        rows = rows[rows > 0]
        rows = rows[torch.randperm(len(rows), generator=generator)][:response]
        responses[index, : len(rows)] = rows
    return BehaviorExamples(sequences, responses, torch.tensor(times_ms, dtype=torch.long))


def build_pairs(baskets: Sequence[Basket], table: Snapshot, seed: int) -> Tensor:
    """Pairs (M, 2) of rows: a random one of the latest behaviors before a basket, and a new item of the basket."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for basket in baskets:
        before = table.rows(basket.history.item_ids[-LATEST:])
        new = table.rows(new_items(basket))
        if len(before) and len(new):
            drawn = before[torch.randint(len(before), (len(new),), generator=generator)]
            pairs.append(torch.stack([drawn, new], dim=1))
    rows = torch.cat(pairs) if pairs else torch.zeros(0, 2, dtype=torch.long)
    return rows[(rows > 0).all(-1)]


def build_canvas(history: Sequences, times_ms: Tensor, token_table: TokenTable, prior: Tensor | None) -> Canvas:
    """Histories (B, H) as a canvas of unmasked behaviors; items that the table does not know are absent."""
    batch, length = history.rows.shape
    known = torch.where(history.rows > 0, history.rows, ABSENT)
    positions = torch.arange(length, device=known.device).expand(batch, length)
    tokens = token_table.to_tokens(known)
    prior = prior if token_table.trie is None else None  # the prior is over items, not over codes
    return Canvas(tokens, history.types, history.gaps, positions, to_month(times_ms), prior)
