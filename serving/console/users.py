"""A user's features for the console: observed history beside inferred behaviors."""

from collections.abc import Sequence
from dataclasses import dataclass

from features.repository import FeatureRepository
from reaseq.behavior.history import TYPE_CODES
from reaseq.records import History, Inferred
from serving.console.titles import read_titles


@dataclass(frozen=True)
class BehaviorView:
    """An observed behavior."""

    item_id: str
    title: str  # empty if the store does not know the item
    type: str
    time_ms: int


@dataclass(frozen=True)
class InferredBehaviorView:
    """A behavior that the behavior model inferred and no event records."""

    item_id: str
    title: str  # empty if the store does not know the item
    confidence: float


@dataclass(frozen=True)
class UserView:
    """A user's history, newest first, and inferred behaviors, most confident first."""

    user_id: str
    event_time_ms: int
    events_seen: int
    history: tuple[BehaviorView, ...]
    inferred: tuple[InferredBehaviorView, ...]
    inferred_by: str  # version of the behavior model; empty if nothing was inferred yet
    inferred_as_of_ms: int
    events_since_inference: int
    retracted_events: int
    erased_until_ms: int  # 0 if no erasure was requested


@dataclass(frozen=True)
class UserViews:
    """Reads users from the store. Every method raises StoreUnavailable."""

    store: FeatureRepository

    def read(self, user_id: str) -> UserView | None:
        """The user's view, or None if the store does not know the user."""
        user = self.store.read_users([user_id]).get(user_id)
        if user is None:
            return None
        history, inferred = user.history, user.inferred
        titles = read_titles(self.store, list({*history.item_ids, *inferred.item_ids}))
        return UserView(
            user_id=user.user_id,
            event_time_ms=user.event_time_ms,
            events_seen=user.events_seen,
            history=_build_history(history, titles),
            inferred=_build_inferred(inferred, titles),
            inferred_by=inferred.model,
            inferred_as_of_ms=inferred.as_of_ms,
            events_since_inference=user.events_seen - inferred.events_seen if inferred.model else 0,
            retracted_events=len(history.retracted_keys),
            erased_until_ms=history.forgotten_ms,
        )

    def with_history(self, user_ids: Sequence[str]) -> list[str]:
        """The users with a history in the store. Leaves out erased users, even if their late events still arrive."""
        users = self.store.read_users(user_ids)
        return [user_id for user_id in user_ids if user_id in users and users[user_id].history.item_ids]


def _build_history(history: History, titles: dict[str, str]) -> tuple[BehaviorView, ...]:
    type_by_code = {code: name for name, code in TYPE_CODES.items()}
    behaviors = [
        BehaviorView(item_id, titles.get(item_id, ""), type_by_code[code], time_ms)
        for item_id, code, time_ms in zip(history.item_ids, history.types, history.times_ms, strict=True)
    ]
    return tuple(reversed(behaviors))


def _build_inferred(inferred: Inferred, titles: dict[str, str]) -> tuple[InferredBehaviorView, ...]:
    return tuple(
        InferredBehaviorView(item_id, titles.get(item_id, ""), confidence)
        for item_id, confidence in zip(inferred.item_ids, inferred.confidences, strict=True)
    )
