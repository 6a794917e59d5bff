"""Latent reasoning on the stream: infers behaviors from histories, debounced, and without delaying the histories."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from reaseq.behavior.debounce import Catalog, is_due, unknown_items
from reaseq.behavior.history import InferenceRequest
from reaseq.readers import UserReader
from reaseq.records import LEVELS, Inferred, UserFeatures
from reaseq.settings import BehaviorSettings
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import USER_FEATURES
from streams.stages.waiting_users import WaitingUsers


class InferenceBackend(Protocol):
    """Infers behaviors that the log never saw."""

    async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
        """The answers in order of the requests, None without an answer. Each answer depends only on its own request."""
        ...


class BehaviorInferenceStage:
    """Reads `user-features` and writes a record with inferred behaviors for each one that is due.

    All users of a batch are inferred in one call, and each user at most once per batch. An answer for a history with items that
    the catalog does not know yet says so, and is made again by itself when they arrive.
    """

    name = "inference"
    source = USER_FEATURES

    def __init__(
        self,
        store: UserReader,
        catalog: Catalog,
        model: InferenceBackend | None,
        settings: BehaviorSettings,
        batch: BatchPolicy,
    ) -> None:
        self.batch = batch
        self.model = model  # may be replaced between batches; None disables inference
        self._store = store
        self._catalog = catalog
        self._settings = settings
        self._waiting = WaitingUsers(settings.waiting_limit_users)

    async def process(self, batch: Sequence[Message]) -> Effects:
        """A record with inferred behaviors for each user whose newest record is due."""
        effects = Effects()
        if self.model is None:
            return effects
        newest = self._newest_due(batch)
        if not newest:
            return effects
        known = await asyncio.to_thread(self._store.read_users, list(newest))
        due = [record for record in newest.values() if not _is_newer(known.get(record.user_id), record)]
        # The record that supersedes one of these is in the topic too, and is checked when it arrives.
        effects.counts["superseded"] += len(newest) - len(due)
        requests = [InferenceRequest(record.history, record.event_time_ms, record.events_seen) for record in due]
        # Counted before inference: if an item arrives meanwhile, the answer is made again rather than taken for complete.
        unknown = [unknown_items(record, self._catalog) for record in due]
        answers = await self.model.answer(requests)
        for record, missing, answer in zip(due, unknown, answers, strict=True):
            if answer is None:
                effects.counts["no_answer"] += 1
                continue
            effects.counts["inferred"] += 1
            effects.counts["partial_catalog"] += bool(missing)
            inferred = replace(answer, unknown_items=min(len(missing), LEVELS - 2))
            effects.records.append(replace(record, inferred=inferred))
            self._wait(record.user_id, missing)
        return effects

    def items_arrived(self, item_ids: Sequence[str]) -> None:
        """Make users due again who wait for these items, which the catalog knows by now. May be called from any thread."""
        self._waiting.items_arrived(item_ids)

    def recall(self, records: Sequence[UserFeatures]) -> None:
        """Notice stored records that are due, or wait for items: another process may have left them. From any thread."""
        for record in records:
            if is_due(record, self._settings, self._catalog):
                self._waiting.make_ready(record.user_id)
            elif record.inferred.unknown_items:
                self._wait(record.user_id, unknown_items(record, self._catalog))

    async def due_again(self) -> list[UserFeatures]:
        """The stored records of users that have become due without a new event."""
        user_ids = self._waiting.ready(self.batch.limit_records) if self.model else []
        if not user_ids:
            return []
        records = await asyncio.to_thread(self._store.read_users, user_ids)
        self._waiting.taken(user_ids)
        return [*records.values()]

    def _wait(self, user_id: str, item_ids: Sequence[str]) -> None:
        self._waiting.add(user_id, item_ids)
        self.items_arrived([item_id for item_id in item_ids if self._catalog.knows(item_id)])

    def _newest_due(self, batch: Sequence[Message]) -> dict[str, UserFeatures]:
        """The newest due record of each user. It need not be the last one, because two stages write this topic.

        Each record is checked by itself. If a worker crashed after producing an answer and before storing it, the batch has
        both the history and the record with its answer. The latter is not due, and must not hide the history, which is.
        """
        newest: dict[str, UserFeatures] = {}
        for record in (message.body for message in batch if message.body):
            if is_due(record, self._settings, self._catalog) and _is_newer(record, newest.get(record.user_id)):
                newest[record.user_id] = record
        return newest


def _is_newer(record: UserFeatures | None, other: UserFeatures | None) -> bool:
    return record is not None and (other is None or record.version > other.version)
