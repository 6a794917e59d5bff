"""A user as the features have them: what the log saw, beside what was inferred."""

from collections.abc import Sequence
from dataclasses import dataclass

from features.repository import FeatureRepository
from reaseq.behavior.history import TYPE_CODES
from serving.console.titles import read_titles


@dataclass(frozen=True)
class BehaviorView:
    """Something the user did."""

    item_id: str
    title: str  # empty: the store does not know the item
    type: str
    time_ms: int


@dataclass(frozen=True)
class InferredBehaviorView:
    """Something the user plausibly did or will do, which no log saw."""

    item_id: str
    title: str
    confidence: float


@dataclass(frozen=True)
class UserView:
    """History and inferred behaviors, the newest and the most confident first. `behind_events` came after the inference."""

    user_id: str
    event_time_ms: int
    events_seen: int
    history: tuple[BehaviorView, ...]
    inferred: tuple[InferredBehaviorView, ...]
    inferred_by: str
    inferred_as_of_ms: int
    behind_events: int
    taken_back_events: int
    forgotten_ms: int


@dataclass(frozen=True)
class UserViews:
    """Reads users. Raises StoreUnavailable."""

    store: FeatureRepository

    def read(self, user_id: str) -> UserView | None:
        """What is known of a user; None of one whom the store does not know."""
        user = self.store.read_users([user_id]).get(user_id)
        if user is None:
            return None
        past, guessed = user.history, user.inferred
        titles = read_titles(self.store, list({*past.item_ids, *guessed.item_ids}))
        type_by_code = {code: name for name, code in TYPE_CODES.items()}
        history = [
            BehaviorView(item_id, titles.get(item_id, ""), type_by_code[kind], time_ms)
            for item_id, kind, time_ms in zip(past.item_ids, past.types, past.times_ms, strict=True)
        ]
        inferred = [
            InferredBehaviorView(item_id, titles.get(item_id, ""), confidence)
            for item_id, confidence in zip(guessed.item_ids, guessed.confidences, strict=True)
        ]
        return UserView(
            user_id=user.user_id,
            event_time_ms=user.event_time_ms,
            events_seen=user.events_seen,
            history=tuple(reversed(history)),
            inferred=tuple(inferred),
            inferred_by=guessed.model,
            inferred_as_of_ms=guessed.as_of_ms,
            behind_events=user.events_seen - guessed.events_seen if guessed.model else 0,
            taken_back_events=len(past.retracted_keys),
            forgotten_ms=past.forgotten_ms,
        )

    def remembered(self, user_ids: Sequence[str]) -> list[str]:
        """Those of whom the store knows a behavior: nobody who was forgotten, whatever of theirs still comes."""
        known = self.store.read_users(user_ids)
        return [user_id for user_id in user_ids if user_id in known and known[user_id].history.item_ids]
