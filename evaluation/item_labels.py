"""What a ranker is told of items beside their ids: content vectors, and labels as shared ids, from whoever gave them.

Two items that bear one label share its embedding. The control for labels that a reasoner gave are the words of the text itself.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.knowledge.content import Content
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.student import Student, StudentTrainingConfig, train
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.knowledge.zero_shot import ZeroShotReasoner
from reaseq.records import Item, ProductKnowledge
from reaseq.representation.contents import Contents
from reaseq.representation.encoder import Encoder

LEAST_SHARED = 3  # items that must bear a label for it to be a shared id
MOST_SHARED = 0.2  # share of the items beyond which a word says nothing
FOLDS = 2
_WORD = re.compile(r"[a-z]{3,}")

Labels = list[list[tuple[str, float]]]  # of each item: labels and how sure they are


@dataclass(frozen=True)
class ItemLabels:
    """What is said of N items, row 0 the unknown one: contents, and how many shared ids there are with 0 for padding."""

    contents: Contents
    claims: int


def build_item_labels(labels: Labels, vectors: Tensor) -> ItemLabels:
    """Labels and vectors (N, D) of the items as a table's contents, behind a row for the unknown item."""
    shared = Counter(label for of in labels for label, _ in of)
    numbers = {label: number for number, label in enumerate(sorted(k for k, n in shared.items() if n >= LEAST_SHARED), start=1)}
    kept = [[(numbers[label], sure) for label, sure in of if label in numbers] for of in labels]
    width = max([1, *map(len, kept)])
    ids, confidences = np.zeros((len(labels) + 1, width), np.int64), np.zeros((len(labels) + 1, width), np.float32)
    for row, of in enumerate(kept, start=1):
        if of:
            ids[row, : len(of)], confidences[row, : len(of)] = zip(*of, strict=True)
    found = torch.cat([torch.zeros(1, vectors.shape[1]), vectors])
    return ItemLabels(Contents(found, torch.from_numpy(ids), torch.from_numpy(confidences)), len(numbers) + 1)


def beside(*parts: Labels) -> Labels:
    """Labels of several givers together."""
    return [[label for part in of for label in part] for of in zip(*parts, strict=True)]


def attributes(items: Sequence[Item], names: tuple[str, ...]) -> Labels:
    """Attributes whose name begins with one of `names`: brand, category."""
    return [[(f"{n}={text}", 1.0) for n, text in item.attributes.items() if n.startswith(names)] for item in items]


def words(items: Sequence[Item]) -> Labels:
    """The words of the titles: the raw text as labels."""
    found = [sorted(set(_WORD.findall(item.title.lower()))) for item in items]
    shared = Counter(word for of in found for word in of)
    most = MOST_SHARED * len(items)
    return [[(f"word={word}", 1.0) for word in of if shared[word] <= most] for of in found]


def claims(answers: Sequence[ProductKnowledge | None]) -> Labels:
    """The claims of a reasoner."""
    return [[(f"{c.group}={c.value}", c.confidence) for c in answer.claims] if answer else [] for answer in answers]


async def zero_shot(items: Sequence[Item], vectors: NDArray[np.float32], vocabulary: Vocabulary, encoder: Encoder) -> Labels:
    """What the zero-shot reasoner claims of text vectors (N, D)."""
    return claims(await ZeroShotReasoner(encoder, vocabulary).reason(_to_reasoning_items(items), vectors))


async def student(
    items: Sequence[Item],
    vectors: NDArray[np.float32],
    answers: Sequence[ProductKnowledge | None],
    vocabulary: Vocabulary,
) -> Labels:
    """What a student claims of text vectors (N, D) that has seen the teacher's answers of the other FOLDS alone."""
    generator = np.random.default_rng(0)
    fold = generator.integers(0, FOLDS, len(items))
    said: list[ProductKnowledge | None] = [None] * len(items)
    for part in range(FOLDS):
        known = [place for place in range(len(items)) if fold[place] != part and answers[place]]
        lessons = [answer for place in known if (answer := answers[place])]
        model = train(vectors[known], lessons, vocabulary, StudentTrainingConfig())
        asked = [place for place in range(len(items)) if fold[place] == part]
        held_out = _to_reasoning_items([items[place] for place in asked])
        found = await Student(model, vocabulary, "evaluation").reason(held_out, vectors[asked])
        for place, answer in zip(asked, found, strict=True):
            said[place] = answer
    return claims(said)


def _to_reasoning_items(items: Sequence[Item]) -> list[ReasoningItem]:
    return [ReasoningItem(Content.from_listing(item.title, item.attributes), item.item_id, item.seller_id) for item in items]
