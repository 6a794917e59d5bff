"""The zero-shot reasoner: the encoder compares an item's title with the vocabulary, without training or an LLM.

The last resort, so it says little: a claim is made where the title is much closer to a value than texts of the domain are on
average. The vocabulary's own values stand for those texts, so an answer depends on no catalog and is the same in every replay.
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
UNKNOWABLE = frozenset({"tier", "season", "lifetime"})  # groups that a similarity to their definitions says nothing about
LEAST_LIFT = 0.2  # of the cosine to a value over the value's mean; below, most claims are wrong
CENTER, SCALE = 0.235, 11.3  # of the confidence in a claim


class ZeroShotReasoner:
    """Claims the values closest to the title, in each group independently."""

    def __init__(self, encoder: Encoder, vocabulary: Vocabulary) -> None:
        self._encoder = encoder
        self._vocabulary = vocabulary
        self._groups = [group for group in vocabulary.groups if group.name not in UNKNOWABLE]
        self._prompts: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self.identity = f"{ZERO_SHOT}:{encoder.space_id}:title:{LEAST_LIFT}"

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> Answers:
        """Knowledge about each item, which may have no claim. The vectors of the whole text, (N, D), are not used."""
        return await asyncio.to_thread(self._reason, [item.content.title for item in items])

    def _reason(self, titles: Sequence[str]) -> Answers:
        prompts, means = self._prompt_vectors()
        lifts = self._encoder.encode(titles) @ prompts.T - means  # (N, V)
        return [ProductKnowledge(vocabulary=self._vocabulary.version, claims=tuple(self._claims(row))) for row in lifts]

    def _claims(self, lifts: NDArray[np.float32]) -> list[Claim]:
        """The claims of one item, from its lifts (V,)."""
        claims, start = list[Claim](), 0
        for group in self._groups:
            part = lifts[start : start + len(group.values)]
            values, start = list(group.values), start + len(group.values)
            closest = np.argsort(-part, kind="stable")[: group.most]
            claims += [Claim(group.name, values[i], _confidence(part[i]), ZERO_SHOT) for i in closest if part[i] >= LEAST_LIFT]
        return claims

    def _prompt_vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The values' vectors (V, D), and the mean cosine of each to all of them (V,)."""
        if self._prompts is None:
            prompts = self._encoder.encode([_prompt(group, value) for group in self._groups for value in group.values])
            self._prompts = prompts, prompts @ prompts.mean(axis=0)
        return self._prompts


def _prompt(group: Group, value: str) -> str:
    """A value's name and definition."""
    return f"{value}: {group.values[value]}".replace("_", " ")


def _confidence(lift: np.float32) -> float:
    """The share of such claims that are right, by a logistic fit on 2,975 items with recorded answers."""
    return round(float(1 / (1 + np.exp(-SCALE * (lift - CENTER)))), 4)
