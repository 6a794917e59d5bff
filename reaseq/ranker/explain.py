"""Why a candidate stands where it stands: what its score loses when one thing that is known of the user is taken away.

Leave-one-out: each behavior, real or inferred, is removed on its own, the rest scored again, all in one forward pass. The loss
is in log-odds of the probability. Losses do not add up to the score: behaviors that say the same stand in for each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from msgspec.structs import replace as changed_struct

from reaseq.ranker.engine import Engine, ScoringQuery
from reaseq.ranker.model import RankerBatch
from reaseq.records import History, Inferred, UserFeatures
from reaseq.representation.item_table import Snapshot

NOTHING = UserFeatures(user_id="", event_time_ms=0, events_seen=0, history=History())


@dataclass(frozen=True)
class Carried:
    """One behavior, and what the candidate's score owes to it."""

    item_id: str
    time_ms: int | None  # None: it was inferred
    confidence: float
    log_odds: float


@dataclass(frozen=True)
class Explanation:
    """One candidate's probability, and what carried it; a positive share of the log-odds spoke for the candidate."""

    item_id: str
    probability: float
    behaviors: tuple[Carried, ...]  # those that carried most first
    groups: dict[str, float]  # the same for all of a kind at once
    item_time_ms: int  # when the item was listed
    history_time_ms: int | None  # the newest real behavior
    inferred_time_ms: int | None  # as of when the rest was inferred


def explain(engine: Engine, user: UserFeatures | None, item_ids: Sequence[str], now_ms: int) -> list[Explanation]:
    """An explanation of each candidate."""
    table = engine.table.snapshot
    rows = table.rows(item_ids)
    known = user or NOTHING
    past, guessed = known.history, known.inferred
    changed = [
        known,
        *(_without_behavior(known, place) for place in range(len(past.item_ids))),
        *(_without_inferred(known, place) for place in range(len(guessed.item_ids))),
        changed_struct(known, history=History()),
        changed_struct(known, inferred=Inferred(latent=guessed.latent, model=guessed.model)),
    ]
    batch, _ = engine.batch([ScoringQuery(one, rows, now_ms) for one in changed], table)
    first = batch[torch.tensor([0])]
    ablated = {
        "latent state": replace(first, scores=torch.zeros_like(first.scores)),
        "recent popularity": replace(first, counts=torch.zeros_like(first.counts)),
    }
    odds = _log_odds(engine, batch, table)  # (changed, C)
    losses = (odds[0] - odds[1:]).T.tolist()  # (C, changes)
    others = {name: (odds[0] - _log_odds(engine, of, table)[0]).tolist() for name, of in ablated.items()}
    real = [(item_id, time, 1.0) for item_id, time in zip(past.item_ids, past.times_ms, strict=True)]
    inferred = [(item_id, None, sure) for item_id, sure in zip(guessed.item_ids, guessed.confidences, strict=True)]
    found = []
    for place, (item_id, of_item) in enumerate(zip(item_ids, losses, strict=True)):
        behaviors = [
            Carried(other, time, sure, loss)
            for (other, time, sure), loss in zip([*real, *inferred], of_item[: len(real) + len(inferred)], strict=True)
        ]
        groups = {"real behaviors": of_item[-2], "inferred behaviors": of_item[-1]}
        groups |= {name: of[place] for name, of in others.items()}
        found.append(
            Explanation(
                item_id,
                float(torch.sigmoid(odds[0, place])),
                tuple(sorted(behaviors, key=lambda carried: -abs(carried.log_odds))),
                groups,
                int(table.listed_ms[rows[place]]),
                past.times_ms[-1] if past.times_ms else None,
                guessed.as_of_ms if guessed.item_ids else None,
            )
        )
    return found


def _log_odds(engine: Engine, batch: RankerBatch, table: Snapshot) -> torch.Tensor:
    return torch.logit(engine.score_batch(batch, table).double().clamp(1e-12, 1 - 1e-12))


def _without_behavior(user: UserFeatures, place: int) -> UserFeatures:
    columns = (user.history.item_ids, user.history.types, user.history.times_ms, user.history.event_keys)
    item_ids, types, times_ms, keys = (column[:place] + column[place + 1 :] for column in columns)
    return changed_struct(user, history=History(item_ids=item_ids, types=types, times_ms=times_ms, event_keys=keys))  # type: ignore[arg-type]


def _without_inferred(user: UserFeatures, place: int) -> UserFeatures:
    was = user.inferred
    item_ids, confidences = (column[:place] + column[place + 1 :] for column in (was.item_ids, was.confidences))
    return changed_struct(user, inferred=changed_struct(was, item_ids=item_ids, confidences=confidences))
