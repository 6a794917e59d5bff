"""Explicit reasoning on the stream: a text-stage record becomes a reasoned one, each content once."""

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge.content import Content, fingerprint
from reaseq.knowledge.reasoner import Reasoner
from reaseq.records import ItemFeatures, ProductKnowledge
from streams.messages import Message
from streams.stage import BatchPolicy, Effects
from streams.stages.onboarding import ItemReader, TextEncoder
from streams.topics import ITEM_FEATURES

PROFILE_WEIGHT = 0.5  # of the profile's vector beside the text's: bounds how far a reasoner can move an item


class Reasoning:
    """Follows `item-features`: what arrives there at the text stage leaves with knowledge and an enriched vector."""

    name = "reasoning"
    source = ITEM_FEATURES

    def __init__(
        self, store: ItemReader, reasoner: Reasoner, encoder: TextEncoder, vocabulary: str, batch: BatchPolicy
    ) -> None:
        self.batch = batch
        self._store = store
        self._reasoner = reasoner
        self._encoder = encoder
        self._vocabulary = vocabulary

    async def process(self, batch: Sequence[Message]) -> Effects:
        """A reasoned record for each text-stage record that is still the newest of its item."""
        effects = Effects()
        asked = {message.key: message.body for message in batch if message.body and message.body.stage == "text"}
        known = await asyncio.to_thread(self._store.read_items, list(asked))
        due = [record for key, record in asked.items() if not _superseded(record, known.get(key))]
        effects.counts["superseded"] += len(asked) - len(due)
        if not due:
            return effects
        contents = [Content(record.title, tuple(sorted(record.attributes.items()))) for record in due]
        vectors = np.stack([np.frombuffer(record.vector, np.float16) for record in due]).astype(np.float32)  # (N, D)
        answers = await self._reasoner.reason(contents, vectors)
        enriched = await asyncio.to_thread(self._enrich, vectors, answers)
        effects.counts["reasoned"] += sum(answer is not None for answer in answers)
        effects.counts["no_answer"] += sum(answer is None for answer in answers)
        effects.records.extend(
            msgspec.structs.replace(
                record,
                stage="reasoned",
                knowledge=answer,
                vector=vector.astype(np.float16).tobytes(),
                fingerprint=fingerprint(record.content, self._vocabulary, self._reasoner.identity),
            )
            for record, answer, vector in zip(due, answers, enriched, strict=True)
            if answer is not None
        )
        return effects

    def _enrich(self, vectors: NDArray[np.float32], answers: Sequence[ProductKnowledge | None]) -> NDArray[np.float32]:
        """Text vectors (N, D) drawn towards their profiles' vectors; unit length."""
        told = [place for place, answer in enumerate(answers) if answer and answer.profile]
        profiles = self._encoder.encode([answers[place].profile for place in told])  # type: ignore[union-attr]
        enriched = vectors.copy()
        for place, profile in zip(told, profiles, strict=True):
            mixed = (1 - PROFILE_WEIGHT) * vectors[place] + PROFILE_WEIGHT * profile
            enriched[place] = mixed / np.linalg.norm(mixed)
        return enriched


def _superseded(asked: ItemFeatures, known: ItemFeatures | None) -> bool:
    if known is None:
        return False
    return (known.event_time_ms, known.revision) > (asked.event_time_ms, asked.revision)
