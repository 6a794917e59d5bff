"""Item labels: shared ids from attributes, title words or a reasoner's claims, and content vectors, as ranker features.

Items with the same label share its embedding. The words of an item's title are the baseline for labels from a reasoner.
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

LABEL_ITEMS_MIN = 3  # items that must share a label for it to get an id
WORD_ITEMS_SHARE_MAX = 0.2  # share of the items beyond which a word carries no information
FOLDS = 2
_WORD = re.compile(r"[a-z]{3,}")

Labels = list[list[tuple[str, float]]]  # for each item, its labels and their confidences


@dataclass(frozen=True)
class ItemLabels:
    """Vectors and label ids of N items, after row 0 for the unknown item. `claims` is the number of ids, with 0 for padding."""

    contents: Contents
    claims: int


def build_item_labels(labels: Labels, vectors: Tensor) -> ItemLabels:
    """Item labels from the labels and the vectors (N, D) of the items. Labels of too few items are dropped."""
    counts = Counter(label for item_labels in labels for label, _ in item_labels)
    shared = sorted(label for label, count in counts.items() if count >= LABEL_ITEMS_MIN)
    label_ids = {label: label_id for label_id, label in enumerate(shared, start=1)}
    kept = [
        [(label_ids[label], confidence) for label, confidence in item_labels if label in label_ids] for item_labels in labels
    ]
    width = max([1, *map(len, kept)])
    ids, confidences = np.zeros((len(labels) + 1, width), np.int64), np.zeros((len(labels) + 1, width), np.float32)
    for row, pairs in enumerate(kept, start=1):
        if pairs:
            ids[row, : len(pairs)], confidences[row, : len(pairs)] = zip(*pairs, strict=True)
    with_unknown = torch.cat([torch.zeros(1, vectors.shape[1]), vectors])
    return ItemLabels(
        Contents.without_attributes(with_unknown, torch.from_numpy(ids), torch.from_numpy(confidences)), len(label_ids) + 1
    )


def combine_labels(*parts: Labels) -> Labels:
    """The labels of several sources, item by item."""
    return [[label for labels in item_parts for label in labels] for item_parts in zip(*parts, strict=True)]


def attribute_labels(items: Sequence[Item], names: tuple[str, ...]) -> Labels:
    """Attributes whose name starts with one of `names`, such as brand and category."""
    return [[(f"{name}={text}", 1.0) for name, text in item.attributes.items() if name.startswith(names)] for item in items]


def title_words(items: Sequence[Item]) -> Labels:
    """The words of the titles, without those that many items share."""
    words = [sorted(set(_WORD.findall(item.title.lower()))) for item in items]
    counts = Counter(word for item_words in words for word in item_words)
    most = WORD_ITEMS_SHARE_MAX * len(items)
    return [[(f"word={word}", 1.0) for word in item_words if counts[word] <= most] for item_words in words]


def claim_labels(answers: Sequence[ProductKnowledge | None]) -> Labels:
    """The claims of a reasoner's answers."""
    return [[(f"{c.group}={c.value}", c.confidence) for c in answer.claims] if answer else [] for answer in answers]


async def zero_shot_labels(
    items: Sequence[Item], vectors: NDArray[np.float32], vocabulary: Vocabulary, encoder: Encoder
) -> Labels:
    """The zero-shot reasoner's claims from text vectors (N, D)."""
    return claim_labels(await ZeroShotReasoner(encoder, vocabulary).reason(_to_reasoning_items(items), vectors))


async def student_labels(
    items: Sequence[Item],
    vectors: NDArray[np.float32],
    answers: Sequence[ProductKnowledge | None],
    vocabulary: Vocabulary,
) -> Labels:
    """A student's claims from text vectors (N, D), cross-fitted: it never saw the teacher's answer to the item it labels."""
    generator = np.random.default_rng(0)
    folds = generator.integers(0, FOLDS, len(items))
    predicted: list[ProductKnowledge | None] = [None] * len(items)
    for fold in range(FOLDS):
        train_rows = [row for row in range(len(items)) if folds[row] != fold and answers[row]]
        lessons = [answer for row in train_rows if (answer := answers[row])]
        model = train(vectors[train_rows], lessons, vocabulary, StudentTrainingConfig())
        fold_rows = [row for row in range(len(items)) if folds[row] == fold]
        fold_items = _to_reasoning_items([items[row] for row in fold_rows])
        found = await Student(model, vocabulary, "evaluation").reason(fold_items, vectors[fold_rows])
        for row, answer in zip(fold_rows, found, strict=True):
            predicted[row] = answer
    return claim_labels(predicted)


def _to_reasoning_items(items: Sequence[Item]) -> list[ReasoningItem]:
    return [ReasoningItem(Content.from_listing(item.title, item.attributes), item.item_id, item.seller_id) for item in items]
