"""User behaviour on the stream: events become histories, and histories inferred behaviours."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from reaseq.behavior.history import Behavior, HistoryFold, Question, history_of
from reaseq.records import History, Inferred, UserFeatures
from reaseq.settings import BehaviorSettings
from streams.messages import Message
from streams.stage import BatchPolicy, Effects
from streams.topics import EVENTS


class UserReader(Protocol):
    """Where the present records of users are read."""

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserFeatures]: ...


class BehaviorModel(Protocol):
    """Infers behaviours that the log never saw."""

    def infer(self, questions: Sequence[Question]) -> list[Inferred]:
        """Answers in order. An answer depends on its own question only, whatever it was batched with."""
        ...


class Catalogue(Protocol):
    """Which items have been onboarded."""

    def knows(self, item_id: str) -> bool: ...


class BehaviorStage:
    """Events to user features.

    Whether inference is due is decided event by event, from the event and the user's record alone, so the outcome is the
    same however the events were batched. Within a batch only the last due inference of a user is computed.
    """

    name = "behavior"
    source = EVENTS

    def __init__(
        self,
        store: UserReader,
        catalogue: Catalogue,
        model: BehaviorModel | None,
        settings: BehaviorSettings,
        batch: BatchPolicy,
    ) -> None:
        self.batch = batch
        self.model = model  # may be replaced between batches; None: histories only
        self._store = store
        self._catalogue = catalogue
        self._settings = settings

    async def process(self, batch: Sequence[Message]) -> Effects:
        """One record for each user whose history changed."""
        effects = Effects()
        by_user: dict[str, list[Message]] = {}
        for message in batch:
            by_user.setdefault(message.key, []).append(message)
        known = await asyncio.to_thread(self._store.read_users, list(by_user))
        turns = [_Turn(user_id, known.get(user_id), self._settings) for user_id in by_user]
        for turn, messages in zip(turns, by_user.values(), strict=True):
            for message in messages:
                if not self._catalogue.knows(message.body.item_id):
                    effects.counts["unknown_item"] += 1
                effects.counts[turn.take(message)] += 1
        turns = [turn for turn in turns if turn.changed]
        if self.model:
            await asyncio.to_thread(self._infer, self.model, [turn for turn in turns if turn.due])
        effects.records.extend(turn.record for turn in turns)
        return effects

    def _infer(self, model: BehaviorModel, turns: list["_Turn"]) -> None:
        answers = model.infer([turn.question for turn in turns])
        for turn, answer in zip(turns, answers, strict=True):
            turn.inferred = answer


class _Turn:
    """One user's part of a batch."""

    def __init__(self, user_id: str, known: UserFeatures | None, settings: BehaviorSettings) -> None:
        self._user_id = user_id
        self._settings = settings
        self._fold = HistoryFold(known.history if known else History(), settings.history_limit_events)
        self._events_seen = known.events_seen if known else 0
        self.inferred = known.inferred if known else Inferred()
        self._inferred_at = (self.inferred.events_seen, self.inferred.as_of_ms)
        self.changed = False
        self.due: tuple[list[Behavior], int, int] | None = None

    def take(self, message: Message) -> str:
        """Fold one event in; says what became of it."""
        outcome = self._fold.absorb(message.body)
        if outcome == "accepted":
            self.changed = True
            self._events_seen += 1
            now_ms = self._fold.newest_ms
            events, as_of_ms = self._inferred_at
            enough = self._events_seen - events >= self._settings.min_new_events
            if enough and now_ms - as_of_ms >= self._settings.min_interval_s * 1000:
                self._inferred_at = (self._events_seen, now_ms)
                self.due = (self._fold.snapshot(), now_ms, self._events_seen)
        return outcome

    @property
    def question(self) -> Question:
        """What to infer from; only where inference is due."""
        assert self.due  # noqa: S101  for the type checker
        behaviors, as_of_ms, events_seen = self.due
        return Question(history_of(behaviors), as_of_ms, events_seen)

    @property
    def record(self) -> UserFeatures:
        """The user's record after the batch."""
        return UserFeatures(
            user_id=self._user_id,
            event_time_ms=self._fold.newest_ms,
            events_seen=self._events_seen,
            history=history_of(self._fold.snapshot()),
            inferred=self.inferred,
        )
