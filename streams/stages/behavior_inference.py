"""Latent reasoning on the stream: histories lead to inferred behaviors, not at every event and never in the way of one."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from reaseq.behavior.debounce import Similarity, is_due
from reaseq.behavior.history import InferenceRequest
from reaseq.readers import UserReader
from reaseq.records import Inferred, UserFeatures
from reaseq.settings import BehaviorSettings
from streams.contract.messages import Message
from streams.contract.stage import BatchPolicy, Effects
from streams.contract.topics import USER_FEATURES


class InferenceBackend(Protocol):
    """Infers behaviors that the log never saw."""

    async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
        """Answers in order, None where there is none. An answer depends on its own request only."""
        ...


class BehaviorInferenceStage:
    """Follows `user-features`: a record whose behaviors are due to be inferred leads to one that has them.

    A batch asks once about a user, however many of its records are in it, and about all users at once.
    """

    name = "inference"
    source = USER_FEATURES

    def __init__(
        self,
        store: UserReader,
        catalog: Similarity,
        model: InferenceBackend | None,
        settings: BehaviorSettings,
        batch: BatchPolicy,
    ) -> None:
        self.batch = batch
        self.model = model  # may be replaced between batches; None: nothing is inferred
        self._store = store
        self._catalog = catalog
        self._settings = settings

    async def process(self, batch: Sequence[Message]) -> Effects:
        """A record with inferred behaviors for each user whose newest record is due."""
        effects = Effects()
        if self.model is None:
            return effects
        # The newest due record of each user, which need not be the last: two stages write this topic. What is due is decided
        # record by record: an answer that a crash kept out of the store stands here too, and must not hide its request.
        newest: dict[str, UserFeatures] = {}
        for record in (message.body for message in batch if message.body):
            if is_due(record, self._settings, self._catalog) and _is_newer(record, newest.get(record.user_id)):
                newest[record.user_id] = record
        if not newest:
            return effects
        known = await asyncio.to_thread(self._store.read_users, list(newest))
        due = [record for record in newest.values() if not _is_newer(known.get(record.user_id), record)]
        effects.counts["superseded"] += len(newest) - len(due)  # by what is in the topic too, and decided about in its turn
        answers = await self.model.answer([InferenceRequest(r.history, r.event_time_ms, r.events_seen) for r in due])
        effects.counts["inferred"] += sum(answer is not None for answer in answers)
        effects.counts["no_answer"] += sum(answer is None for answer in answers)
        effects.records.extend(
            msgspec.structs.replace(record, inferred=answer)
            for record, answer in zip(due, answers, strict=True)
            if answer is not None
        )
        return effects


def _is_newer(record: UserFeatures | None, than: UserFeatures | None) -> bool:
    return record is not None and (than is None or record.version > than.version)
