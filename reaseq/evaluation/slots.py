"""What a source of inferred behaviours adds to the ranker: its scores of the candidates, in one slot, everything else equal.

The ranker learns from baskets whose scores came from models of earlier blocks of time, and is judged on later baskets, on what
was new to the user. Lists of negatives: `uniform` over what was on sale, `pop` by recent popularity, and `mat`: each target
against items that sold about as often (powers of two) over the last 30 days, which takes away what popularity explains.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.behavior.examples import Basket
from reaseq.behavior.popularity import RecentSales
from reaseq.behavior.sequence import sequences_of
from reaseq.evaluation.log import Log
from reaseq.evaluation.metrics import ranks
from reaseq.ranker import training
from reaseq.ranker.model import Ranker, RankerConfig, Request
from reaseq.ranker.training import Examples, RankerPlan
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

POSITIVES, EACH, MATCHED = 8, 60, 20  # targets a basket at most; negatives of a kind; matched negatives a target
COUNT_WINDOWS_DAYS = (1, 7, 30)  # not in all: what has just begun to sell would give itself away
HISTORY = 48
CHUNK = 256

Source = Callable[[Sequence["Moment"]], NDArray[np.float32]]  # moments to scores (B, N, E) of every item


@dataclass(frozen=True)
class Moment:
    """A basket about to be filled: what is new in it, and what the user had bought by then (rows)."""

    basket: Basket
    targets: NDArray[np.int64]  # listed before the basket, never bought before
    bought: NDArray[np.int64]


def moments_of(log: Log, start_ms: int, end_ms: int) -> list[Moment]:
    """The moments of [start, end) that have a history and a target."""
    listed_ms = log.table.listed_ms.numpy()
    bought: dict[str, set[int]] = defaultdict(set)
    moments = []
    for basket in log.baskets:
        rows = set(log.table.rows(basket.item_ids).tolist())
        before = bought[basket.user_id]
        if start_ms <= basket.time_ms < end_ms and basket.history.item_ids:
            targets = np.array(sorted(row for row in rows - before if 0 < row and listed_ms[row] < basket.time_ms), np.int64)
            if len(targets):
                moments.append(Moment(basket, targets, np.array(sorted(before), np.int64)))
        before |= rows
    return moments


def open_to(moments: Sequence[Moment], table: Snapshot) -> Tensor:
    """What each user may be given (B, N): listed before the moment and never bought."""
    times_ms = torch.tensor([moment.basket.time_ms for moment in moments])
    allowed = table.live & (table.listed_ms < times_ms[:, None])
    for place, moment in enumerate(moments):
        allowed[place, moment.bought] = False
    return allowed


@dataclass(frozen=True)
class Candidates:
    """Lists of n moments: POSITIVES targets, EACH uniform negatives, EACH by popularity, and MATCHED for each target."""

    rows: Tensor  # (n, C)
    real: Tensor  # (n, POSITIVES) bool: fewer targets than places are padded
    matched: Tensor  # (n, POSITIVES) bool: where matched negatives exist


def draw_candidates(moments: Sequence[Moment], table: Snapshot, sales: RecentSales, seed: int) -> Candidates:
    """The same lists for every model that is compared."""
    generator = np.random.default_rng(seed)
    width = POSITIVES + 2 * EACH + POSITIVES * MATCHED
    rows = np.zeros((len(moments), width), np.int64)
    real, matched = np.zeros((2, len(moments), POSITIVES), bool)
    for start in range(0, len(moments), CHUNK):
        part = moments[start : start + CHUNK]
        allowed = open_to(part, table).numpy()
        counts = sales.counts(torch.tensor([moment.basket.time_ms for moment in part])).numpy()
        for at, (moment, may, sold) in enumerate(zip(part, allowed, counts, strict=True), start=start):
            may[moment.targets] = False
            others = np.flatnonzero(may)
            targets = generator.permutation(moment.targets)[:POSITIVES]
            rows[at, : len(targets)] = targets
            real[at, : len(targets)] = True
            rows[at, POSITIVES : POSITIVES + EACH] = generator.choice(others, EACH)
            share = sold[others] + 0.01
            rows[at, POSITIVES + EACH : POSITIVES + 2 * EACH] = generator.choice(others, EACH, p=share / share.sum())
            bucket = np.log2(sold + 1).astype(np.int64)
            for place, target in enumerate(targets):
                alike = others[bucket[others] == bucket[target]]
                if len(alike):
                    matched[at, place] = True
                    first = POSITIVES + 2 * EACH + place * MATCHED
                    rows[at, first : first + MATCHED] = generator.choice(alike, MATCHED)
    return Candidates(torch.from_numpy(rows), torch.from_numpy(real), torch.from_numpy(matched))


def request_of(moments: Sequence[Moment], candidates: Candidates, table: Snapshot, sales: RecentSales) -> Request:
    """The ranker's features without any slot."""
    times_ms = torch.tensor([moment.basket.time_ms for moment in moments])
    counts = []
    for times, rows in zip(torch.split(times_ms, CHUNK), torch.split(candidates.rows, CHUNK), strict=True):
        counts.append(torch.stack([sales.counts(times, days).gather(1, rows) for days in COUNT_WINDOWS_DAYS], dim=-1))
    nothing = torch.zeros(len(moments), 0)
    return Request(
        history=sequences_of([moment.basket.history for moment in moments], times_ms.tolist(), table, HISTORY),
        inferred=nothing.long(),
        confidences=nothing,
        candidates=candidates.rows,
        counts=torch.cat(counts),
        now_ms=times_ms,
    )


def slot_of(source: Source, moments: Sequence[Moment], candidates: Candidates) -> Tensor:
    """A source's scores of the candidates (n, C, E)."""
    parts = []
    for start in range(0, len(moments), CHUNK):
        scores = torch.from_numpy(source(moments[start : start + CHUNK]))  # (B, N, E)
        rows = candidates.rows[start : start + CHUNK].unsqueeze(-1).expand(-1, -1, scores.shape[-1])
        parts.append(scores.gather(1, rows))
    return torch.cat(parts)


def train_ranker(
    request: Request, candidates: Candidates, slot: Tensor | None, log: Log, ids: TrainedIds, plan: RankerPlan
) -> Ranker:
    """The ranker with a slot, or with none, trained on uniform and popular negatives."""
    kept = POSITIVES + 2 * EACH
    request = replace(
        request,
        candidates=request.candidates[:, :kept],
        counts=request.counts[:, :kept],
        scores=None if slot is None else slot[:, :kept],
    )
    config = RankerConfig(
        vector_dim=log.table.vectors.shape[1],
        claims=log.claims,
        items=len(ids),
        history=HISTORY,
        reads_inferred=False,
        scores=0 if slot is None else slot.shape[-1],
    )
    return training.train(Examples(request, candidates.real), log.table, ids, config, plan)


def auc(ranker: Ranker, request: Request, candidates: Candidates, slot: Tensor | None, log: Log, ids: TrainedIds) -> Tensor:
    """AUC of each target within its list (n, POSITIVES, 3) by `uniform`, `pop` and `mat`; NaN where there is none."""
    request = replace(request, scores=slot)
    found = torch.full((*candidates.real.shape, 3), torch.nan)
    with torch.inference_mode():
        items = ranker.embed(log.table, ids.of(log.table))
        places = torch.arange(len(candidates.rows))
        scores = torch.cat([ranker(request[part], items) for part in torch.split(places, 32)]).numpy()  # (n, C)
    for at, (row, real, matched) in enumerate(zip(scores, candidates.real, candidates.matched, strict=True)):
        lists = [row[POSITIVES : POSITIVES + EACH], row[POSITIVES + EACH : POSITIVES + 2 * EACH]]
        for place in real.nonzero().flatten().tolist():
            first = POSITIVES + 2 * EACH + place * MATCHED
            against = [*lists, row[first : first + MATCHED]] if matched[place] else lists
            for column, negatives in enumerate(against):
                found[at, place, column] = 1 - (ranks(row[place : place + 1], negatives)[0] - 1) / len(negatives)
    return found
