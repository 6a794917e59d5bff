"""The zero-shot reasoner: the encoder scores the closed vocabulary against the item's text, without training or an LLM.

The last resort: it always has an answer, but a noisy one (measured in `docs/evaluation.md`).
"""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge.reasoner import Answers, ReasoningItem
from reaseq.knowledge.vocabulary import Group, Vocabulary
from reaseq.records import Claim, ProductKnowledge
from reaseq.representation.encoder import Encoder

ZERO_SHOT = "zero-shot"
TEMPERATURE = 0.05  # of the softmax over a group's cosines; a difference of 0.1 is a factor of 7
LIFT = 2.0  # optional values are claimed above this multiple of a uniform guess's probability


class ZeroShotReasoner:
    """Claims the values closest to the text, in each group independently."""

    def __init__(self, encoder: Encoder, vocabulary: Vocabulary) -> None:
        self._encoder = encoder
        self._vocabulary = vocabulary
        self._prompts: dict[str, NDArray[np.float32]] = {}
        self.identity = f"{ZERO_SHOT}:{encoder.space_id}:{TEMPERATURE}:{LIFT}"

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Knowledge about each item from its text vector (N, D)."""
        return await asyncio.to_thread(lambda: [self._knowledge(vector) for vector in vectors])

    def _knowledge(self, vector: NDArray[np.float32]) -> ProductKnowledge:
        claims = [claim for group in self._vocabulary.groups for claim in self._claims(group, vector)]
        return ProductKnowledge(vocabulary=self._vocabulary.version, claims=tuple(claims))

    def _claims(self, group: Group, vector: NDArray[np.float32]) -> list[Claim]:
        logits = self._prompt_vectors(group) @ vector / TEMPERATURE  # (V,)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        ranked = np.argsort(-probabilities, kind="stable")[: group.most]
        values = list(group.values)
        floor = LIFT / len(values)
        return [
            Claim(group.name, values[index], round(float(probabilities[index]), 4), ZERO_SHOT)
            for rank, index in enumerate(ranked)
            if rank < group.least or probabilities[index] >= floor
        ]

    def _prompt_vectors(self, group: Group) -> NDArray[np.float32]:  # (V, D)
        if group.name not in self._prompts:
            prompts = [f"{group.name}: {value}".replace("_", " ") for value in group.values]
            self._prompts[group.name] = self._encoder.encode(prompts)
        return self._prompts[group.name]
