"""Explicit reasoning on the stream: adds knowledge to item records, once per content."""

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from reaseq import float16
from reaseq.knowledge.content import Content, fingerprint
from reaseq.knowledge.guard import enrich
from reaseq.knowledge.reasoner import Reasoner, ReasoningItem
from reaseq.readers import ItemReader, TextEncoder
from reaseq.records import ItemFeatures, ProductKnowledge
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import ITEM_FEATURES

NAME = "reasoning"


class ReasoningStage:
    """Reads `item-features` and writes a `reasoned` record for each one that lacks the current reasoner's knowledge.

    A record is due if its status is `text`, or if it is `reasoned` with an outdated fingerprint (the prompt, model or
    vocabulary has changed). `reaseq knowledge refresh` produces the latter to the topic again.
    """

    name = NAME
    source = ITEM_FEATURES

    def __init__(
        self, store: ItemReader, reasoner: Reasoner, encoder: TextEncoder, vocabulary: str, batch: BatchPolicy
    ) -> None:
        self.batch = batch
        self._store = store
        self._reasoner = reasoner
        self._encoder = encoder
        self._vocabulary = vocabulary
        # Without this lock, concurrent batches that wait for the encoder would use up the thread pool, which asyncio also needs
        # to resolve the endpoint's address.
        self._encoding = asyncio.Lock()

    async def process(self, batch: Sequence[Message]) -> Effects:
        """A reasoned record for each record that is due and still the newest of its item.

        Raises Unavailable if the reasoner is unavailable. A retry does not pay again for the answers already given.
        """
        effects = Effects()
        candidates = {message.key: message.body for message in batch if message.body and self._is_due(message.body)}
        due = await self._drop_superseded(list(candidates.values()))
        effects.counts["superseded"] += len(candidates) - len(due)
        if not due:
            return effects
        items = [
            ReasoningItem(Content(record.title, tuple(sorted(record.attributes.items()))), record.item_id, record.seller_id)
            for record in due
        ]
        async with self._encoding:
            vectors = await asyncio.to_thread(self._text_vectors, due, items)  # (N, D)
        answers = await self._reasoner.reason(items, vectors)
        async with self._encoding:
            enriched = await asyncio.to_thread(self._enrich, vectors, answers)
        # Reasoning takes time, so a record may have been superseded meanwhile.
        current = {record.item_id for record in await self._drop_superseded(due)}
        effects.counts["reasoned"] += sum(answer is not None for answer in answers)
        effects.counts["no_answer"] += sum(answer is None for answer in answers)
        effects.records.extend(
            self._build_reasoned(record, answer, vector)
            for record, answer, vector in zip(due, answers, enriched, strict=True)
            if answer is not None and record.item_id in current
        )
        return effects

    async def _drop_superseded(self, records: list[ItemFeatures]) -> list[ItemFeatures]:
        """The records that are not older than the stored ones."""
        known = await asyncio.to_thread(self._store.read_items, [record.item_id for record in records])
        return [record for record in records if not _is_superseded(record, known.get(record.item_id))]

    def _is_due(self, record: ItemFeatures) -> bool:
        return record.status == "text" or (record.status == "reasoned" and record.fingerprint != self._fingerprint(record))

    def _fingerprint(self, record: ItemFeatures) -> str:
        return fingerprint(record.content, self._vocabulary, self._reasoner.identity)

    def _build_reasoned(self, record: ItemFeatures, knowledge: ProductKnowledge, vector: NDArray[np.float32]) -> ItemFeatures:
        return msgspec.structs.replace(
            record,
            status="reasoned",
            knowledge=knowledge,
            vector=float16.pack(vector),
            fingerprint=self._fingerprint(record),
            reasoned_again=record.reasoned_again + (record.status == "reasoned"),
        )

    def _text_vectors(self, records: Sequence[ItemFeatures], items: Sequence[ReasoningItem]) -> NDArray[np.float32]:
        """Text vectors (N, D). A reasoned record holds an enriched vector instead, so its text is encoded again."""
        vectors = float16.unpack_rows([record.vector for record in records])
        reasoned = [row for row, record in enumerate(records) if record.status == "reasoned"]
        vectors[reasoned] = self._encoder.encode([items[row].content.text for row in reasoned]).astype(float16.FLOAT16)
        return vectors

    def _enrich(self, vectors: NDArray[np.float32], answers: Sequence[ProductKnowledge | None]) -> NDArray[np.float32]:
        """Text vectors (N, D), moved toward the vectors of their profiles."""
        rows = [row for row, answer in enumerate(answers) if answer and answer.profile]
        profiles = self._encoder.encode([answers[row].profile for row in rows])  # type: ignore[union-attr]
        enriched = vectors.copy()
        for row, profile in zip(rows, profiles, strict=True):
            enriched[row] = enrich(vectors[row], profile)
        return enriched


def _is_superseded(record: ItemFeatures, known: ItemFeatures | None) -> bool:
    return known is not None and known.version > record.version
