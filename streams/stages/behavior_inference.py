"""Latent reasoning on the stream: infers behaviors from histories, debounced, and without delaying the histories."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from reaseq.behavior.debounce import Similarity, is_due
from reaseq.behavior.history import InferenceRequest
from reaseq.readers import UserReader
from reaseq.records import Inferred, UserFeatures
from reaseq.settings import BehaviorSettings
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import USER_FEATURES


class InferenceBackend(Protocol):
    """Infers behaviors that the log never saw."""

    async def answer(self, requests: Sequence[InferenceRequest]) -> list[Inferred | None]:
        """The answers in order of the requests, None without an answer. Each answer depends only on its own request."""
        ...


class BehaviorInferenceStage:
    """Reads `user-features` and writes a record with inferred behaviors for each one that is due.

    All users of a batch are inferred in one call, and each user at most once per batch.
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
        self.model = model  # may be replaced between batches; None disables inference
        self._store = store
        self._catalog = catalog
        self._settings = settings

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
        answers = await self.model.answer(requests)
        effects.counts["inferred"] += sum(answer is not None for answer in answers)
        effects.counts["no_answer"] += sum(answer is None for answer in answers)
        effects.records.extend(
            msgspec.structs.replace(record, inferred=answer)
            for record, answer in zip(due, answers, strict=True)
            if answer is not None
        )
        return effects

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
