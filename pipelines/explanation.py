"""Ranks for a user on the feature store, without a service, and explains the best candidates."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.ranker import load_engine
from reaseq.errors import CatalogError
from reaseq.ranker.explain import Explanation, explain
from reaseq.settings import Settings


@dataclass(frozen=True)
class ExplainedRanking:
    """The best candidates of a ranking, best first, and the titles of all items in their explanations."""

    ranker: str
    user_is_known: bool
    now_ms: int
    candidates: int
    best: list[Explanation]
    titles: dict[str, str]


def rank_and_explain(
    settings: Settings, user_id: str, item_ids: Sequence[str], best: int, now_ms: int | None = None
) -> ExplainedRanking:
    """Rank `item_ids` (if empty, all items on sale) at `now_ms` (by default, just after the user's last event).

    Raises CatalogError if an item is unknown, and ArtifactError if no ranker is published.
    """
    engine, repository = load_engine(settings)
    user = repository.read_users([user_id]).get(user_id)
    if unknown := [item_id for item_id in item_ids if not engine.table.knows(item_id)]:
        raise CatalogError(f"the feature store does not know item {', '.join(unknown)}")
    if now_ms is None:
        now_ms = user.event_time_ms + 1 if user else int(time.time() * 1000)
    table = engine.table.snapshot
    candidates = list(item_ids) or [table.ids[row] for row in table.live.nonzero().flatten().tolist()]
    scores = engine.score(user, candidates, now_ms)
    best_ids = [candidates[index] for index in (-scores).argsort(kind="stable")[:best].tolist()]
    behavior_ids = (*user.history.item_ids, *user.inferred.item_ids) if user else ()
    records = repository.read_items(list({*best_ids, *behavior_ids}))
    titles = {item_id: record.title for item_id, record in records.items()}
    explanations = explain(engine, user, best_ids, now_ms)
    return ExplainedRanking(engine.version, user is not None, now_ms, len(candidates), explanations, titles)
