"""The history stage: folds events into user histories."""

import asyncio
from collections.abc import Sequence
from typing import Literal

from msgspec.structs import replace

from features.sharding import shard_of
from reaseq.behavior.history import Behavior, ErasureRequest, HistoryFold
from reaseq.readers import ItemLookup, UserReader
from reaseq.records import EVENT_TYPES, EventDelta, History, Inferred, UserFeatures, to_source
from reaseq.settings import BehaviorSettings
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import EVENTS


class HistoryStage:
    """Folds events into histories immediately. The inferred behaviors are kept until `BehaviorInferenceStage` renews them.

    A message without a body is an erasure request. The record keeps the time of the request, so that earlier events, whenever
    they arrive, bring nothing back.

    What comes to count and what no longer does becomes deltas. Events that are duplicates, too late for the history or from
    before an erasure request make none. A retraction or an erasure request takes back only what the history still holds.
    """

    name = "history"
    source = EVENTS

    def __init__(
        self, store: UserReader, catalog: ItemLookup, settings: BehaviorSettings, batch: BatchPolicy, shards: int = 1
    ) -> None:
        """`shards` is the number of shards of the store: the users of each are a source of deltas, see `to_source`."""
        self.batch = batch
        self._store = store
        self._catalog = catalog
        self._limit = settings.history_limit_events
        self._shards = shards

    async def process(self, batch: Sequence[Message]) -> Effects:
        """One record for each user whose history changed."""
        effects = Effects()
        by_user: dict[str, list[Message]] = {}
        for message in batch:
            by_user.setdefault(message.key, []).append(message)
        known = await asyncio.to_thread(self._store.read_users, list(by_user))
        for user_id, messages in by_user.items():
            record = self._fold(user_id, known.get(user_id), messages, effects)
            if record:
                effects.records.append(record)
        return effects

    def _fold(
        self, user_id: str, known: UserFeatures | None, messages: Sequence[Message], effects: Effects
    ) -> UserFeatures | None:
        fold = HistoryFold(known.history if known else History(), self._limit)
        inferred, accepted = known.inferred if known else Inferred(), 0
        shard = shard_of(user_id.encode(), self._shards)
        for message in messages:
            if message.body is None:  # an erasure request
                if fold.erase(message.origin_ms, ErasureRequest(message.offset, message.produced_ms)):
                    effects.counts["users_forgotten"] += 1
                    inferred, accepted = Inferred(), accepted + 1
            else:
                if not self._catalog.knows(message.body.item_id):
                    effects.counts["unknown_item"] += 1
                outcome = fold.absorb(message.body)
                effects.counts[outcome] += 1
                accepted += outcome in ("accepted", "retracted")
            for sign, behavior in fold.take_changes():
                effects.deltas.append(_to_delta(message, to_source(message.partition, shard, self._shards), sign, behavior))
        if not accepted:
            return None
        history = fold.history()
        return UserFeatures(
            user_id=user_id,
            event_time_ms=fold.newest_ms,
            events_seen=(known.events_seen if known else 0) + accepted,
            history=history,
            # Nothing is inferred from an empty history, so drop here what was inferred from events that are now retracted. What
            # an earlier answer lacked does not matter any more: the new events make another one due.
            inferred=replace(inferred, unknown_items=0) if history.item_ids else Inferred(),
        )


def _to_delta(message: Message, source: str, sign: Literal[1, -1], behavior: Behavior) -> EventDelta:
    event_type = EVENT_TYPES[behavior.type_code - 1]
    return EventDelta(
        source, message.offset, message.produced_ms, sign, behavior.item_id, event_type, behavior.time_ms, behavior.value
    )
