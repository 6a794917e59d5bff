"""MIND: clicked news among the news shown with it. The test does not identify its users."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.candidate_sets import SHOWN, TARGETS_LIMIT, CandidateSets
from evaluation.datasets.interaction_log import build_table, encode_cached
from evaluation.datasets.mind import Impression, Mind, read_mind
from evaluation.experiments.experiment import CONTENT_GAINS, DECLARED, IDS, SIDE, TEXT, TEXT_DECLARED, WORDS, ZERO_SHOT
from evaluation.instances import RankingInstance
from evaluation.item_labels import (
    Labels,
    attribute_labels,
    build_item_labels,
    combine_labels,
    title_words,
    zero_shot_labels,
)
from evaluation.negative_sampling import TRAINING_NEGATIVES
from evaluation.ranking import EvaluationSplit, RankingExperiment, Variant
from reaseq.declaration import Category, Declaration
from reaseq.knowledge.content import Content
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.ranker.training_data import purchases_in
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

VOCABULARY = "content-1"
SIDE_ATTRIBUTES = ("category", "subcategory")
DECLARATION = Declaration(item_attributes=[Category(name) for name in SIDE_ATTRIBUTES])
GAINS = (*CONTENT_GAINS, (TEXT, IDS))


def build_ranking(folder: Path, encoder: Encoder, cache: Path) -> RankingExperiment:
    """Rankers with side features, text and labels, on the files in `folder`."""
    mind = read_mind(folder)
    vectors, by_zero_shot = _describe(mind, encoder, cache)
    text, side = torch.from_numpy(vectors), attribute_labels(mind.items, SIDE_ATTRIBUTES)
    labels = build_item_labels(side, text)
    with_words = build_item_labels(combine_labels(side, title_words(mind.items)), text)
    with_zero_shot = build_item_labels(combine_labels(side, by_zero_shot), text)
    table = build_table(mind.items, labels.contents, DECLARATION)
    seen = sorted({item_id for i in mind.train for item_id in (*i.basket.item_ids, *i.basket.history.item_ids)})
    return RankingExperiment(
        name="mind",
        table=table,
        events=purchases_in([instance.basket for instance in mind.train]),
        trained_ids=TrainedIds(seen),
        train=(build_shown_split(mind.train, table),),
        test={"shown": build_shown_split(mind.test, table)},
        variants=(
            Variant(IDS, price=False),
            Variant(SIDE, labels, price=False),
            Variant(DECLARED, price=False, declared=True),
            Variant(TEXT, labels, vectors=True, price=False),
            Variant(TEXT_DECLARED, labels, vectors=True, price=False, declared=True),
            Variant(WORDS, with_words, vectors=True, price=False),
            Variant(ZERO_SHOT, with_zero_shot, vectors=True, price=False),
        ),
        gains=GAINS,
    )


def build_shown_split(impressions: Sequence[Impression], table: Snapshot) -> EvaluationSplit:
    """Candidate sets of what was shown: clicked items as targets, the others as negatives.

    Evaluation uses all negatives of a set, training the first TRAINING_NEGATIVES.
    """
    width = TARGETS_LIMIT + max(TRAINING_NEGATIVES, max(len(impression.shown) for impression in impressions))
    kept = [impression for impression in impressions if impression.basket.item_ids and impression.shown]
    rows, mask = torch.zeros(len(kept), width, dtype=torch.long), torch.zeros(len(kept), width, dtype=torch.bool)
    instances = []
    for index, impression in enumerate(kept):
        clicked, shown = table.rows(impression.basket.item_ids[:TARGETS_LIMIT]), table.rows(impression.shown)
        rows[index, : len(clicked)], mask[index, : len(clicked)] = clicked, True
        shown_columns = slice(TARGETS_LIMIT, TARGETS_LIMIT + len(shown))
        rows[index, shown_columns], mask[index, shown_columns] = shown, True
        nothing = np.zeros(0, np.int64)
        instances.append(RankingInstance(impression.basket, clicked.numpy(), nothing, nothing))
    columns = torch.arange(TARGETS_LIMIT, width).expand(len(kept), -1)
    negatives = torch.where(mask[:, TARGETS_LIMIT:], columns, -1).unsqueeze(1).expand(-1, TARGETS_LIMIT, -1)
    return EvaluationSplit(instances, CandidateSets(rows, mask, {SHOWN: negatives}, TRAINING_NEGATIVES))


def _describe(mind: Mind, encoder: Encoder, cache: Path) -> tuple[NDArray[np.float32], Labels]:
    """Text vectors (N, D) and zero-shot labels; a zero vector and no labels for news without text."""
    covered = [item.title != item.item_id for item in mind.items]
    texts = [
        Content.from_listing(item.title, item.attributes).text if has_text else ""
        for item, has_text in zip(mind.items, covered, strict=True)
    ]
    vectors = encode_cached(texts, encoder, cache) * np.array(covered, np.float32)[:, None]
    labels = asyncio.run(zero_shot_labels(mind.items, vectors, load_vocabulary(VOCABULARY), encoder))
    return vectors, [item_labels if has_text else [] for item_labels, has_text in zip(labels, covered, strict=True)]
