"""Amazon Beauty with brand and categories as side features. It has no recorded answers of a language model.

The ranker trains on September 2013 to mid-March 2014; the test covers the time from then to July 2014.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import torch

from evaluation.datasets.amazon_beauty import CATEGORY_LEVELS, read_beauty
from evaluation.datasets.interaction_log import InteractionLog, build_baskets, build_table, encode_cached, sort_by_id
from evaluation.experiments.experiment import (
    ALL,
    CONTENT_GAINS,
    DECLARED,
    DIFFUSION,
    IDS,
    KNN,
    SIDE,
    TEXT,
    TEXT_DECLARED,
    WORDS,
    ZERO_SHOT,
    Experiment,
    build_ranking_experiment,
    build_scorer_variants,
)
from evaluation.item_labels import attribute_labels, build_item_labels, combine_labels, title_words, zero_shot_labels
from evaluation.ranking import RankingExperiment, Variant
from reaseq.behavior.model import BehaviorConfig
from reaseq.behavior.training import BehaviorTrainingConfig
from reaseq.days import time_ms
from reaseq.declaration import Category, Declaration
from reaseq.knowledge.content import Content
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.representation.encoder import Encoder

VOCABULARY = "beauty-2"
CUT_DAYS = ("2013-09-01", "2013-12-15", "2014-03-15")
END_DAY = "2014-07-24"
LOG_START_DAY = "2009-01-01"
SIDE_ATTRIBUTES = ("brand", "category")
DECLARATION = Declaration(
    item_attributes=[
        Category("brand", buckets=32_768),
        *(Category(f"category {level}") for level in range(1, CATEGORY_LEVELS + 1)),
    ]
)
HISTORY = 48
GAINS = (
    *CONTENT_GAINS,
    (KNN, TEXT),
    (DIFFUSION, TEXT),
    (DIFFUSION, KNN),
    (ALL, KNN),
    (ALL, IDS),
)


def build_experiment(folder: Path, encoder: Encoder, cache: Path) -> Experiment:
    """The experiment on the files in `folder`."""
    cuts_ms = tuple(time_ms(day) for day in CUT_DAYS)
    log = load_log(folder, encoder, cache)
    return Experiment(
        log=log,
        cuts_ms=cuts_ms,
        test_ms=(cuts_ms[-1], time_ms(END_DAY)),
        config=replace(BehaviorConfig(history=24, response=6), claims=log.claims),
        training_config=BehaviorTrainingConfig(epochs=2, batch_baskets=256),
        code_sizes=(128, 128, 128),
        instances_limit=6000,
    )


def build_ranking(experiment: Experiment, encoder: Encoder) -> RankingExperiment:
    """Rankers with side features, text and labels."""
    log = experiment.log
    text, side = torch.from_numpy(log.text), attribute_labels(log.items, SIDE_ATTRIBUTES)
    by_zero_shot = asyncio.run(zero_shot_labels(log.items, log.text, load_vocabulary(VOCABULARY), encoder))
    labels = build_item_labels(side, text)
    variants = (
        Variant(IDS, price=False),
        Variant(SIDE, labels),
        Variant(DECLARED, declared=True),
        Variant(TEXT, labels, vectors=True),
        Variant(TEXT_DECLARED, labels, vectors=True, declared=True),
        Variant(WORDS, build_item_labels(combine_labels(side, title_words(log.items)), text), vectors=True),
        Variant(ZERO_SHOT, build_item_labels(combine_labels(side, by_zero_shot), text), vectors=True),
        *build_scorer_variants(labels),
    )
    return build_ranking_experiment(experiment, variants, GAINS, ages_ms={})


def load_log(folder: Path, encoder: Encoder, cache: Path) -> InteractionLog:
    """The log from LOG_START_DAY on, with brand and categories in place of claims."""
    beauty = read_beauty(folder)
    items = sort_by_id(beauty.items)
    text = encode_cached([Content.from_listing(item.title, item.attributes).text for item in items], encoder, cache)
    labels = build_item_labels(attribute_labels(items, SIDE_ATTRIBUTES), torch.from_numpy(text))
    since_ms = time_ms(LOG_START_DAY)
    baskets = tuple(basket for basket in build_baskets(beauty, HISTORY) if basket.time_ms >= since_ms)
    return InteractionLog(
        "amazon-beauty", build_table(items, labels.contents, DECLARATION), labels.claims, baskets, items, text
    )
