"""Explicit reasoning on the stream: a text-stage record becomes a reasoned one, each content once."""

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
from streams.contract.messages import Message
from streams.contract.stage import BatchPolicy, Effects
from streams.contract.topics import ITEM_FEATURES

NAME = "reasoning"


class ReasoningStage:
    """Follows `item-features`: what arrives there without the knowledge of the present reasoner leaves with it.

    That is every record at the text stage, and one that was reasoned about under another fingerprint (a changed prompt, model
    or vocabulary), which `reaseq knowledge refresh` puts there again.
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
        # Batches under way would queue for the encoder in threads, and leave none for looking up the endpoint's address.
        self._encoding = asyncio.Lock()

    async def process(self, batch: Sequence[Message]) -> Effects:
        """A reasoned record for each record that is due and still the newest of its item.

        Raises Unavailable where the reasoner must be waited for; what it has answered by then costs nothing again.
        """
        effects = Effects()
        asked = {message.key: message.body for message in batch if message.body and self._is_due(message.body)}
        due = await self._still_due(list(asked.values()))
        effects.counts["superseded"] += len(asked) - len(due)
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
        current = {record.item_id for record in await self._still_due(due)}  # reasoning takes its time
        effects.counts["reasoned"] += sum(answer is not None for answer in answers)
        effects.counts["no_answer"] += sum(answer is None for answer in answers)
        effects.records.extend(
            msgspec.structs.replace(
                record,
                status="reasoned",
                knowledge=answer,
                vector=float16.pack(vector),
                fingerprint=self._fingerprint(record),
                reasoned_again=record.reasoned_again + (record.status == "reasoned"),
            )
            for record, answer, vector in zip(due, answers, enriched, strict=True)
            if answer is not None and record.item_id in current
        )
        return effects

    async def _still_due(self, records: list[ItemFeatures]) -> list[ItemFeatures]:
        known = await asyncio.to_thread(self._store.read_items, [record.item_id for record in records])
        return [record for record in records if not _superseded(record, known.get(record.item_id))]

    def _is_due(self, record: ItemFeatures) -> bool:
        return record.status == "text" or (record.status == "reasoned" and record.fingerprint != self._fingerprint(record))

    def _fingerprint(self, record: ItemFeatures) -> str:
        return fingerprint(record.content, self._vocabulary, self._reasoner.identity)

    def _text_vectors(self, records: Sequence[ItemFeatures], items: Sequence[ReasoningItem]) -> NDArray[np.float32]:
        """The vectors of the items' texts; one that was reasoned about has an enriched vector and is encoded anew."""
        vectors = float16.unpack_rows([record.vector for record in records])
        again = [place for place, record in enumerate(records) if record.status == "reasoned"]
        vectors[again] = self._encoder.encode([items[place].content.text for place in again]).astype(float16.FLOAT16)
        return vectors

    def _enrich(self, vectors: NDArray[np.float32], answers: Sequence[ProductKnowledge | None]) -> NDArray[np.float32]:
        """Text vectors (N, D) drawn towards their profiles' vectors."""
        told = [place for place, answer in enumerate(answers) if answer and answer.profile]
        profiles = self._encoder.encode([answers[place].profile for place in told])  # type: ignore[union-attr]
        enriched = vectors.copy()
        for place, profile in zip(told, profiles, strict=True):
            enriched[place] = enrich(vectors[place], profile)
        return enriched


def _superseded(asked: ItemFeatures, known: ItemFeatures | None) -> bool:
    return known is not None and known.version > asked.version
