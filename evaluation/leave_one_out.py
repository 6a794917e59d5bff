"""Leave-one-out over the whole catalog, as papers on sequential recommendation evaluate (Kang and McAuley 2018).

A user's last item is the test's target, the one before it is the validation's, and models are trained on the rest. Every item
of the catalog is a candidate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import hit, ndcg

CUTOFF = 10
BATCH = 256  # users scored at a time

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]
Ranks = NDArray[np.float64]


@dataclass(frozen=True)
class UserSequences:
    """What each user took, in order.

    Attributes:
        rows: rows of the item table, from 1, of each user.
        days: the day of each, counted from the epoch.
        items: length of the item table, with row 0 for the unknown item.
    """

    rows: tuple[Rows, ...]
    days: tuple[Rows, ...]
    items: int

    def without_last(self, count: int) -> "UserSequences":
        """The sequences without the last `count` items of each."""
        rows, days = (tuple(part[:-count] for part in parts) for parts in (self.rows, self.days))
        return UserSequences(rows, days, self.items)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, users: Rows) -> "UserSequences":
        rows, days = (tuple(parts[user] for user in users) for parts in (self.rows, self.days))
        return UserSequences(rows, days, self.items)


@dataclass(frozen=True)
class HeldOut:
    """One item of each of U users, and the history before it."""

    histories: UserSequences
    targets: Rows  # (U,) rows of the item table
    days: Rows  # (U,) of the targets, for models that are told the time

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, users: Rows) -> "HeldOut":
        return HeldOut(self.histories[users], self.targets[users], self.days[users])


@dataclass(frozen=True)
class Split:
    """Sequences split by leave-one-out."""

    train: UserSequences
    validation: HeldOut
    test: HeldOut


@dataclass(frozen=True)
class TargetRanks:
    """The rank (U,) of each user's target among all items, from 1."""

    seen_kept: Ranks  # items of the user's history are candidates like all others, as in the papers
    seen_left_out: Ranks


Score = Callable[[HeldOut], Scores]  # scores (B, N) of all items for B users, from their histories and days alone


def split(sequences: UserSequences) -> Split:
    """Hold out two items of each user, who must have three."""
    return Split(sequences.without_last(2), _hold_out(sequences.without_last(1)), _hold_out(sequences))


def rank_targets(score: Score, held_out: HeldOut) -> TargetRanks:
    """Rank each target among all items of the table but row 0. An item with an equal score counts as better."""
    kept, left_out = [], []
    for users in batches(len(held_out)):
        part = held_out[users]
        scores = score(part)
        others = np.arange(scores.shape[1]) != part.targets[:, None]
        others[:, 0] = False
        better = others & ~(scores < np.take_along_axis(scores, part.targets[:, None], axis=1))  # NaN counts as better
        kept.append(1.0 + better.sum(1))
        for better_items, seen in zip(better, part.histories.rows, strict=True):
            better_items[seen] = False
        left_out.append(1.0 + better.sum(1))
    return TargetRanks(np.concatenate(kept), np.concatenate(left_out))


def batches(count: int) -> Iterator[Rows]:
    """The numbers below `count` in batches that fit in memory with the scores of all items."""
    for start in range(0, count, BATCH):
        yield np.arange(start, min(start + BATCH, count))


def measure(ranks: Ranks) -> dict[str, float]:
    """Recall@10, which with one target is the hit rate, and NDCG@10."""
    return {f"recall_{CUTOFF}": float(hit(ranks, CUTOFF).mean()), f"ndcg_{CUTOFF}": float(ndcg(ranks, CUTOFF).mean())}


def _hold_out(sequences: UserSequences) -> HeldOut:
    """Hold out the last item of each sequence."""
    targets, days = (np.array([part[-1] for part in parts], np.int64) for parts in (sequences.rows, sequences.days))
    return HeldOut(sequences.without_last(1), targets, days)
