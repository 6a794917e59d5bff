"""Explains a candidate's score: how much it loses when one thing known about the user is removed.

Leave-one-out: each behavior, real or inferred, is removed on its own and the rest scored again, all in one forward pass. The
loss is in log-odds of the probability. Losses do not add up to the score, since similar behaviors substitute for each other.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from msgspec.structs import replace as replace_struct

from reaseq.declaration import Field
from reaseq.ranker.engine import Engine, ScoringQuery
from reaseq.ranker.model import RankerBatch, RankerConfig
from reaseq.ranker.numbers import POPULARITY
from reaseq.records import History, Inferred, UserFeatures
from reaseq.representation.attributes import code_fields, number_fields
from reaseq.representation.item_table import Snapshot

EXPLAINED_BEHAVIORS = 128  # the latest of a history; each costs a forward pass
UNKNOWN_USER = UserFeatures(user_id="", event_time_ms=0, events_seen=0, history=History())


@dataclass(frozen=True)
class Contribution:
    """One behavior and its contribution to a candidate's score."""

    item_id: str
    time_ms: int | None  # None if the behavior was inferred
    confidence: float
    log_odds: float


@dataclass(frozen=True)
class Explanation:
    """One candidate's probability and what contributed to it; positive log-odds raised the score."""

    item_id: str
    probability: float
    behaviors: tuple[Contribution, ...]  # largest first, by absolute value; of the real ones, the latest
    groups: dict[str, float]  # the contribution of all features of a kind
    item_time_ms: int  # when the item was listed
    history_time_ms: int | None  # the newest real behavior
    inferred_time_ms: int | None  # as of when behaviors were inferred


def explain(engine: Engine, user: UserFeatures | None, item_ids: Sequence[str], now_ms: int) -> list[Explanation]:
    """One explanation per candidate, in order."""
    table = engine.table.snapshot
    rows = table.rows(item_ids)
    known = user or UNKNOWN_USER
    behaviors = _behaviors(known)
    batch, _ = engine.batch([ScoringQuery(variant, rows, now_ms) for variant in _variants(known)], table)
    log_odds = _log_odds(engine, batch, table)  # (variants, C)
    losses = (log_odds[0] - log_odds[1:]).T.tolist()  # (C, variants − 1)
    context = {
        name: (log_odds[0] - _log_odds(engine, ablated, table, hidden)[0]).tolist()
        for name, ablated, hidden in _ablations(batch, engine.config)
    }
    explanations = []
    for index, (item_id, item_losses) in enumerate(zip(item_ids, losses, strict=True)):
        contributions = [
            Contribution(*behavior, loss) for behavior, loss in zip(behaviors, item_losses[: len(behaviors)], strict=True)
        ]
        groups = {"real behaviors": item_losses[-2], "inferred behaviors": item_losses[-1]}
        groups |= {name: group_losses[index] for name, group_losses in context.items()}
        explanations.append(
            Explanation(
                item_id,
                float(torch.sigmoid(log_odds[0, index])),
                tuple(sorted(contributions, key=lambda contribution: -abs(contribution.log_odds))),
                groups,
                int(table.listed_ms[rows[index]]),
                known.history.times_ms[-1] if known.history.times_ms else None,
                known.inferred.as_of_ms if known.inferred.item_ids else None,
            )
        )
    return explanations


def _behaviors(user: UserFeatures) -> list[tuple[str, int | None, float]]:
    """Item, time and confidence of each behavior, the real ones first."""
    history, inferred = user.history, user.inferred
    real = list(zip(history.item_ids, history.times_ms, strict=True))[-EXPLAINED_BEHAVIORS:]
    return [
        *((item_id, time_ms, 1.0) for item_id, time_ms in real),
        *((item_id, None, confidence) for item_id, confidence in zip(inferred.item_ids, inferred.confidences, strict=True)),
    ]


def _variants(user: UserFeatures) -> list[UserFeatures]:
    """The user, the user without each behavior, without all real ones, and without all inferred ones."""
    behaviors = len(user.history.item_ids)
    return [
        user,
        *(_without_behavior(user, index) for index in range(behaviors)[-EXPLAINED_BEHAVIORS:]),
        *(_without_inferred(user, index) for index in range(len(user.inferred.item_ids))),
        replace_struct(user, history=History()),
        replace_struct(user, inferred=Inferred(latent=user.inferred.latent, model=user.inferred.model)),
    ]


def _ablations(batch: RankerBatch, config: RankerConfig) -> Iterator[tuple[str, RankerBatch, Field | None]]:
    """The user's own batch without one kind of non-behavior features at a time: its name, the batch, a category to hide."""
    first = batch[torch.tensor([0])]
    yield "latent state", _with_numbers(first, config.score_columns, 0), None
    yield "recent popularity", _with_numbers(first, POPULARITY, 0), None
    for column, field in enumerate(number_fields(config.attributes), config.attribute_columns.start):
        yield f"attribute {field.name}", _with_numbers(first, slice(column, column + 1), math.nan), None
    for field in code_fields(config.attributes):
        yield f"attribute {field.name}", first, field


def _with_numbers(batch: RankerBatch, columns: slice, value: float) -> RankerBatch:
    numbers = batch.numbers.clone()
    numbers[..., columns] = value
    return replace(batch, numbers=numbers)


def _log_odds(engine: Engine, batch: RankerBatch, table: Snapshot, hidden: Field | None = None) -> torch.Tensor:
    return torch.logit(engine.score_batch(batch, table, hidden).double().clamp(1e-12, 1 - 1e-12))


def _without_behavior(user: UserFeatures, index: int) -> UserFeatures:
    columns = (user.history.item_ids, user.history.types, user.history.times_ms, user.history.event_keys)
    item_ids, types, times_ms, keys = (column[:index] + column[index + 1 :] for column in columns)
    return replace_struct(user, history=History(item_ids=item_ids, types=types, times_ms=times_ms, event_keys=keys))  # type: ignore[arg-type]


def _without_inferred(user: UserFeatures, index: int) -> UserFeatures:
    inferred = user.inferred
    item_ids, confidences = (column[:index] + column[index + 1 :] for column in (inferred.item_ids, inferred.confidences))
    return replace_struct(user, inferred=replace_struct(inferred, item_ids=item_ids, confidences=confidences))
