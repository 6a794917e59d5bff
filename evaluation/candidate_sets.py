"""CandidateSets to rank at each instance: what was taken, and what it competes with. The same candidate_sets for every model that is compared.

`uniform`: drawn evenly from what was on sale and never bought; `pop`: the same by the sales of the last 30 days; `mat`: each
target against items that sold about as often (powers of two) over the last 30 days, which takes away what popularity explains.
Repeat purchases are judged apart: a product bought again against the others bought before (`again`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.instances import RankingInstance, open_to, to_times
from reaseq.behavior.popularity import RecentSales
from reaseq.representation.item_table import Snapshot

TARGETS, EACH, MATCHED = 8, 60, 20  # targets a list at most; negatives of a kind; matched negatives a target
UNIFORM, POPULARITY_SAMPLED, POPULARITY_MATCHED, REPEATS = "uniform", "pop", "mat", "again"
CHUNK = 256
FLOOR = 0.01  # of sales, so that what did not sell is drawn at all


@dataclass(frozen=True)
class CandidateSets:
    """n candidate_sets. The first TARGETS columns are targets, then follow `learnt` negatives, then those that only judge."""

    rows: Tensor  # (n, C)
    real: Tensor  # (n, C) bool: whatever is not is padding
    against: dict[str, Tensor]  # by kind (n, TARGETS, M): columns of the negatives that each target is judged against, or -1
    learnt: int  # negatives that a ranker may be trained on

    def __getitem__(self, places: Tensor) -> "CandidateSets":
        against = {kind: columns[places] for kind, columns in self.against.items()}
        return CandidateSets(self.rows[places], self.real[places], against, self.learnt)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> Tensor:
        """The targets' rows (n, TARGETS), 0 where there are fewer."""
        return self.rows[:, :TARGETS] * self.real[:, :TARGETS]


def new_item_candidate_sets(
    instances: Sequence[RankingInstance], table: Snapshot, sales: RecentSales, seed: int
) -> CandidateSets:
    """CandidateSets of what was new to the users, among what they never bought."""
    generator = np.random.default_rng(seed)
    width = TARGETS + 2 * EACH + TARGETS * MATCHED
    rows = np.zeros((len(instances), width), np.int64)
    real = np.zeros((len(instances), width), bool)
    for start in range(0, len(instances), CHUNK):
        part = instances[start : start + CHUNK]
        allowed = open_to(part, table).numpy()
        counts = sales.counts(to_times(part)).numpy()
        for at, (instance, may, sold) in enumerate(zip(part, allowed, counts, strict=True), start=start):
            may[instance.targets] = False
            _draw(rows[at], real[at], instance, np.flatnonzero(may), sold, generator)
    matching = TARGETS + 2 * EACH + torch.arange(TARGETS * MATCHED).view(TARGETS, MATCHED)
    columns = {
        UNIFORM: torch.arange(TARGETS, TARGETS + EACH).expand(TARGETS, -1),
        POPULARITY_SAMPLED: torch.arange(TARGETS + EACH, TARGETS + 2 * EACH).expand(TARGETS, -1),
        POPULARITY_MATCHED: matching,
    }
    return CandidateSets(torch.from_numpy(rows), torch.from_numpy(real), _against(columns, torch.from_numpy(real)), 2 * EACH)


def repeat_candidate_sets(
    instances: Sequence[RankingInstance], table: Snapshot, seed: int
) -> tuple[list[RankingInstance], CandidateSets]:
    """The instances with a repeat and something else to repeat, and their candidate_sets; to train on, never-bought items fill them up."""
    generator = np.random.default_rng(seed)
    chosen = [instance for instance in instances if len(instance.repeats) and len(instance.bought) > len(instance.repeats)]
    width = TARGETS + 2 * EACH
    rows = np.zeros((len(chosen), width), np.int64)
    real = np.zeros((len(chosen), width), bool)
    for start in range(0, len(chosen), CHUNK):
        part = chosen[start : start + CHUNK]
        for at, (instance, may) in enumerate(zip(part, open_to(part, table).numpy(), strict=True), start=start):
            others = np.setdiff1d(instance.bought, instance.repeats)
            _put(rows[at], real[at], 0, generator.permutation(instance.repeats)[:TARGETS])
            rivals = generator.permutation(others)[:EACH]
            may[instance.targets] = False
            rest = generator.choice(np.flatnonzero(may), 2 * EACH - len(rivals))
            _put(rows[at], real[at], TARGETS, rivals)
            _put(rows[at], real[at], TARGETS + len(rivals), rest)
    found = torch.from_numpy(rows)
    columns = {REPEATS: torch.arange(TARGETS, TARGETS + EACH).expand(TARGETS, -1)}
    against = _against(columns, torch.from_numpy(real))
    bought = torch.tensor([min(EACH, len(instance.bought) - len(instance.repeats)) for instance in chosen])
    outside = torch.arange(EACH) >= bought[:, None]  # (n, EACH)
    against[REPEATS] = against[REPEATS].masked_fill(outside.unsqueeze(1), -1)
    return chosen, CandidateSets(found, torch.from_numpy(real), against, 2 * EACH)


def rank_targets(scores: Tensor, candidate_sets: CandidateSets, kind: str) -> tuple[Tensor, Tensor]:
    """Rank of each target among its negatives of a kind (n, TARGETS), from 1, a tie counting half; and how many there are.

    NaN where there is no target or no negative.
    """
    found, counts = [], []
    for part in torch.split(torch.arange(len(candidate_sets)), CHUNK):
        columns = candidate_sets.against[kind][part]  # (b, T, M)
        real = columns >= 0
        negatives = scores[part].gather(1, columns.clamp(min=0).flatten(1)).view(columns.shape)
        targets = scores[part, :TARGETS].unsqueeze(-1)
        above = ((negatives > targets) & real).sum(-1) + 0.5 * ((negatives == targets) & real).sum(-1)
        count = real.sum(-1)
        judged = candidate_sets.real[part, :TARGETS] & (count > 0)
        found.append(torch.where(judged, 1.0 + above, torch.nan))
        counts.append(count)
    return torch.cat(found), torch.cat(counts)


def _draw(
    rows: NDArray[np.int64],
    real: NDArray[np.bool_],
    instance: RankingInstance,
    others: NDArray[np.int64],
    sold: NDArray[np.float32],
    generator: np.random.Generator,
) -> None:
    targets = generator.permutation(instance.targets)[:TARGETS]
    share = sold[others] + FLOOR
    _put(rows, real, 0, targets)
    _put(rows, real, TARGETS, generator.choice(others, EACH))
    _put(rows, real, TARGETS + EACH, generator.choice(others, EACH, p=share / share.sum()))
    bucket = np.log2(sold + 1).astype(np.int64)
    for place, target in enumerate(targets):
        alike = others[bucket[others] == bucket[target]]
        if len(alike):
            _put(rows, real, TARGETS + 2 * EACH + place * MATCHED, generator.choice(alike, MATCHED))


def _put(rows: NDArray[np.int64], real: NDArray[np.bool_], at: int, values: NDArray[np.int64]) -> None:
    rows[at : at + len(values)] = values
    real[at : at + len(values)] = True


def _against(columns: dict[str, Tensor], real: Tensor) -> dict[str, Tensor]:
    """Columns by kind (TARGETS, M) for each list, -1 where the list has padding there."""
    found = {}
    for kind, of_kind in columns.items():
        wide = of_kind.expand(len(real), *of_kind.shape)  # (n, T, M)
        found[kind] = torch.where(real.gather(1, wide.flatten(1)).view(wide.shape), wide, -1)
    return found
