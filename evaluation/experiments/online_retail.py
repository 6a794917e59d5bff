"""Online Retail with a language model's recorded knowledge.

The ranker trains on March 15 to August 31, 2011; the test covers September 18 to October 31.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from evaluation.datasets.interaction_log import InteractionLog, build_baskets, build_table, encode_cached, sort_by_id
from evaluation.datasets.online_retail import read_retail
from evaluation.experiments.experiment import (
    ALL,
    DIFFUSION,
    IDS,
    KNN,
    LLM,
    PROFILE,
    SIDE,
    STUDENT,
    TEXT,
    WORDS,
    ZERO_SHOT,
    Experiment,
    build_ranking_experiment,
    build_scorer_variants,
)
from evaluation.item_labels import build_item_labels, claim_labels, student_labels, title_words, zero_shot_labels
from evaluation.ranking import RankingExperiment, Variant
from reaseq.behavior.model import BehaviorConfig
from reaseq.behavior.training import BehaviorTrainingConfig
from reaseq.days import DAY_MS, time_ms
from reaseq.knowledge.content import Content
from reaseq.knowledge.guard import enrich
from reaseq.knowledge.recorded import read_answers
from reaseq.knowledge.vocabulary import CLAIMS_LIMIT, Vocabulary, load_vocabulary
from reaseq.records import Item, ProductKnowledge
from reaseq.representation.contents import Contents
from reaseq.representation.encoder import Encoder

VOCABULARY = "giftware-3"
CUT_DAYS = ("2011-03-15", "2011-05-01", "2011-06-15", "2011-07-25", "2011-09-01")
TEST_DAYS = ("2011-09-18", "2011-11-01")
AGES_MS = {"0 s": 0, "1 min": 60_000, "1 h": 3_600_000, "1 day": DAY_MS, "7 days": 7 * DAY_MS}
BEHAVIOR_HISTORY = 48
LONG_HISTORY, SEARCHED = 1000, 48
LONGER, SEARCH = "history 200", f"history {LONG_HISTORY}, {SEARCHED} searched"
GAINS = (
    (SIDE, IDS),
    (TEXT, SIDE),
    (WORDS, TEXT),
    *((name, baseline) for name in (ZERO_SHOT, STUDENT, LLM) for baseline in (TEXT, WORDS)),
    (LLM, ZERO_SHOT),
    (PROFILE, LLM),
    (LONGER, PROFILE),
    (SEARCH, LONGER),
    (KNN, PROFILE),
    (DIFFUSION, PROFILE),
    (DIFFUSION, KNN),
    (ALL, KNN),
    (ALL, IDS),
)


def build_experiment(
    order_lines: Path, answers: Path, encoder: Encoder, cache: Path, history: int = BEHAVIOR_HISTORY
) -> Experiment:
    """The experiment with baskets that carry the latest `history` behaviors."""
    cuts_ms = tuple(time_ms(day) for day in CUT_DAYS)
    start_ms, end_ms = (time_ms(day) for day in TEST_DAYS)
    log = load_log(order_lines, answers, load_vocabulary(VOCABULARY), encoder, cache, known_ms=cuts_ms[-1], history=history)
    return Experiment(
        log=log,
        cuts_ms=cuts_ms,
        test_ms=(start_ms, end_ms),
        config=replace(BehaviorConfig(history=min(history, BEHAVIOR_HISTORY), response=16), claims=log.claims),
        training_config=BehaviorTrainingConfig(epochs=8),
        code_sizes=(64, 64, 64),
        instances_limit=6000,
    )


def build_ranking(experiment: Experiment, encoder: Encoder) -> RankingExperiment:
    """Rankers with each kind of knowledge, histories of several lengths, and features of several ages."""
    log, vocabulary = experiment.log, load_vocabulary(VOCABULARY)
    text = torch.from_numpy(log.text)
    by_student = asyncio.run(student_labels(log.items, log.text, log.answers, vocabulary))
    by_zero_shot = asyncio.run(zero_shot_labels(log.items, log.text, vocabulary, encoder))
    by_llm = build_item_labels(claim_labels(log.answers), text)
    with_profile = build_item_labels(claim_labels(log.answers), log.table.contents.vectors[1:])
    variants = (
        Variant(IDS, price=False),
        Variant(SIDE),
        Variant(TEXT, build_item_labels([[]] * len(log.items), text), vectors=True),
        Variant(WORDS, build_item_labels(title_words(log.items), text), vectors=True),
        Variant(ZERO_SHOT, build_item_labels(by_zero_shot, text), vectors=True),
        Variant(STUDENT, build_item_labels(by_student, text), vectors=True),
        Variant(LLM, by_llm, vectors=True),
        Variant(PROFILE, with_profile, vectors=True),
        Variant(LONGER, with_profile, vectors=True, history=200),
        Variant(SEARCH, with_profile, vectors=True, history=LONG_HISTORY, search=SEARCHED),
        *build_scorer_variants(with_profile),
    )
    return build_ranking_experiment(experiment, variants, GAINS, AGES_MS)


def load_log(
    order_lines: Path, answers: Path, vocabulary: Vocabulary, encoder: Encoder, cache: Path, known_ms: int, history: int
) -> InteractionLog:
    """The log with a language model's recorded claims. An item's text is its newest before `known_ms`, or else its first."""
    retail = read_retail(order_lines)
    recorded = {content.hash: knowledge for content, knowledge in read_answers(answers, vocabulary)}
    items = sort_by_id(_choose_listings(retail.items, known_ms))
    contents = [Content.from_listing(item.title, item.attributes) for item in items]
    knowledge = tuple(recorded.get(content.hash) for content in contents)
    text = encode_cached([content.text for content in contents], encoder, cache)
    profile = encode_cached([answer.profile if answer else "" for answer in knowledge], encoder, cache)
    vectors = np.stack(
        [
            enrich(text_vector, profile_vector) if answer and answer.profile else text_vector
            for text_vector, profile_vector, answer in zip(text, profile, knowledge, strict=True)
        ]
    )
    ids = _build_claim_ids(knowledge, vocabulary)
    with_unknown = torch.from_numpy(np.concatenate([np.zeros_like(vectors[:1]), vectors]))
    table = build_table(items, Contents.without_attributes(with_unknown, ids, (ids > 0).float()))
    baskets = build_baskets(retail, history)
    return InteractionLog("online-retail", table, vocabulary.size, baskets, items, text, knowledge)


def _build_claim_ids(answers: Sequence[ProductKnowledge | None], vocabulary: Vocabulary) -> torch.Tensor:
    """Claim ids (N + 1, CLAIMS_LIMIT), 0 for padding; row 0 is the unknown item."""
    ids = torch.zeros(len(answers) + 1, CLAIMS_LIMIT, dtype=torch.long)
    for row, answer in enumerate(answers, start=1):
        claim_ids = vocabulary.claim_ids(answer)[0]
        ids[row, : len(claim_ids)] = torch.from_numpy(claim_ids.astype(np.int64))
    return ids


def _choose_listings(listings: Sequence[Item], known_ms: int) -> list[Item]:
    """One listing for each item, with the time of its first listing."""
    chosen: dict[str, Item] = {}
    first_ms: dict[str, int] = {}
    for item in listings:
        first_ms.setdefault(item.item_id, item.event_time_ms)
        if item.item_id not in chosen or item.event_time_ms < known_ms:
            chosen[item.item_id] = item
    return [
        Item(item_id=i.item_id, title=i.title, price=i.price, attributes=i.attributes, event_time_ms=first_ms[i.item_id])
        for i in chosen.values()
    ]
