"""The public data sets that the method is judged on: how each is cut in time, and what its rankers are told."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.candidate_scorers import KnnScorer, ScorerFactory, Trainer
from evaluation.candidate_sets import EACH, TARGETS, CandidateSets, new_item_candidate_sets, repeat_candidate_sets
from evaluation.datasets.interaction_log import SIDE, InteractionLog, amazon_beauty, encoded, online_retail, table_of
from evaluation.datasets.mind import Impression, read_mind
from evaluation.instances import RankingInstance, build_instances, some
from evaluation.item_labels import ItemLabels, attributes, beside, build_item_labels, claims, student, words, zero_shot
from evaluation.ranking import EvaluationPart, RankingExperiment, Variant
from reaseq.behavior.model import BehaviorConfig
from reaseq.behavior.popularity import RecentSales
from reaseq.behavior.training import BehaviorTrainingConfig
from reaseq.days import DAY_MS, time_ms
from reaseq.knowledge.content import Content
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

RETAIL_VOCABULARY, BEAUTY_VOCABULARY, MIND_VOCABULARY = "giftware-2", "beauty-1", "content-1"
RETAIL_DAYS = ("2011-03-15", "2011-05-01", "2011-06-15", "2011-07-25", "2011-09-01")
BEAUTY_DAYS = ("2013-09-01", "2013-12-15", "2014-03-15")
AGES_MS = {"0 s": 0, "1 min": 60_000, "1 h": 3_600_000, "1 day": DAY_MS, "7 days": 7 * DAY_MS}
REPEATS_LIMIT = 2000
LONG_HISTORY, SEARCHED = 1000, 48
LEARNT = 2 * EACH  # negatives of a list that a ranker is trained on

IDS, SIDE_NAME, TEXT, WORDS = "ids", "+ side", "+ text", "+ text + words"
ZERO_SHOT, STUDENT, LLM, PROFILE = "+ text + zero-shot", "+ text + student", "+ text + LLM", "+ text + LLM + profile"
KNN, DIFFUSION, ALL = "+ item-kNN", "+ diffusion", "all"
LONGER, SEARCH = "history 200", f"history {LONG_HISTORY}, {SEARCHED} searched"


@dataclass(frozen=True)
class Experiment:
    """One data set and how it is cut. Models speak about [cuts[k], cuts[k+1]) if made before cuts[k]; the test follows."""

    log: InteractionLog
    cuts: tuple[int, ...]
    test: tuple[int, int]
    config: BehaviorConfig
    plan: BehaviorTrainingConfig
    code_sizes: tuple[int, ...]
    instances_limit: int  # of each side, drawn at random where there are more

    @property
    def known(self) -> TrainedIds:
        """The items that were taken before the test."""
        return TrainedIds(sorted({i for b in self.log.baskets if b.time_ms < self.cuts[-1] for i in b.item_ids}))

    @property
    def unseen(self) -> Tensor:
        """Rows (N,) bool of the items that were not."""
        return ~torch.isin(torch.arange(len(self.log.table)), self.log.table.rows(self.known.item_ids))


def retail_experiment(order_lines: Path, answers: Path, encoder: Encoder, cache: Path, history: int = 48) -> Experiment:
    """Online Retail: the ranker trains from March to August 2011, the test is 18 September to October."""
    cuts = tuple(time_ms(day) for day in RETAIL_DAYS)
    config = BehaviorConfig(history=min(history, 48), response=16)
    log = online_retail(
        order_lines, answers, load_vocabulary(RETAIL_VOCABULARY), encoder, cache, known_ms=cuts[-1], history=history
    )
    return Experiment(
        log=log,
        cuts=cuts,
        test=(time_ms("2011-09-18"), time_ms("2011-11-01")),
        config=replace(config, claims=log.claims),
        plan=BehaviorTrainingConfig(epochs=8),
        code_sizes=(64, 64, 64),
        instances_limit=6000,
    )


def beauty_experiment(folder: Path, encoder: Encoder, cache: Path) -> Experiment:
    """Amazon Beauty: the ranker trains from September 2013 to mid-March 2014, the test is all that follows."""
    cuts = tuple(time_ms(day) for day in BEAUTY_DAYS)
    config = BehaviorConfig(history=24, response=6)
    log = amazon_beauty(folder, encoder, cache, since_ms=time_ms("2009-01-01"), history=48)
    return Experiment(
        log=log,
        cuts=cuts,
        test=(cuts[-1], time_ms("2014-07-24")),
        config=replace(config, claims=log.claims),
        plan=BehaviorTrainingConfig(epochs=2, batch_baskets=256),
        code_sizes=(128, 128, 128),
        instances_limit=6000,
    )


def rank_retail(experiment: Experiment, encoder: Encoder) -> RankingExperiment:
    """Online Retail with knowledge of every sort, histories of several lengths, and features of several ages."""
    log, vocabulary = experiment.log, load_vocabulary(RETAIL_VOCABULARY)
    text = torch.from_numpy(log.text)
    said = asyncio.run(student(log.items, log.text, log.answers, vocabulary))
    guessed = asyncio.run(zero_shot(log.items, log.text, vocabulary, encoder))
    known = build_item_labels(claims(log.answers), text)
    enriched = build_item_labels(claims(log.answers), log.table.contents.vectors[1:])
    variants = (
        Variant(IDS, price=False),
        Variant(SIDE_NAME),
        Variant(TEXT, build_item_labels([[]] * len(log.items), text), vectors=True),
        Variant(WORDS, build_item_labels(words(log.items), text), vectors=True),
        Variant(ZERO_SHOT, build_item_labels(guessed, text), vectors=True),
        Variant(STUDENT, build_item_labels(said, text), vectors=True),
        Variant(LLM, known, vectors=True),
        Variant(PROFILE, enriched, vectors=True),
        Variant(LONGER, enriched, vectors=True, history=200),
        Variant(SEARCH, enriched, vectors=True, history=LONG_HISTORY, search=SEARCHED),
        *_with_sources(enriched),
    )
    gains = (
        (SIDE_NAME, IDS),
        (TEXT, SIDE_NAME),
        (WORDS, TEXT),
        *((name, control) for name in (ZERO_SHOT, STUDENT, LLM) for control in (TEXT, WORDS)),
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
    return _ranking(experiment, variants, gains, AGES_MS)


def rank_beauty(experiment: Experiment, encoder: Encoder) -> RankingExperiment:
    """Amazon Beauty: brand and category as side features; nobody recorded a language model's knowledge of it."""
    log = experiment.log
    text, side = torch.from_numpy(log.text), attributes(log.items, SIDE)
    guessed = asyncio.run(zero_shot(log.items, log.text, load_vocabulary(BEAUTY_VOCABULARY), encoder))
    told = build_item_labels(side, text)
    variants = (
        Variant(IDS, price=False),
        Variant(SIDE_NAME, told),
        Variant(TEXT, told, vectors=True),
        Variant(WORDS, build_item_labels(beside(side, words(log.items)), text), vectors=True),
        Variant(ZERO_SHOT, build_item_labels(beside(side, guessed), text), vectors=True),
        *_with_sources(told),
    )
    gains = (
        (SIDE_NAME, IDS),
        (TEXT, SIDE_NAME),
        (WORDS, TEXT),
        (ZERO_SHOT, TEXT),
        (ZERO_SHOT, WORDS),
        (KNN, TEXT),
        (DIFFUSION, TEXT),
        (DIFFUSION, KNN),
        (ALL, KNN),
        (ALL, IDS),
    )
    return _ranking(experiment, variants, gains, {})


def rank_mind(folder: Path, encoder: Encoder, cache: Path) -> RankingExperiment:
    """MIND: clicks against what was shown beside them, to users who are not told apart in the test."""
    mind = read_mind(folder)
    covered = [item.title != item.item_id for item in mind.items]
    texts = [
        Content.from_listing(item.title, item.attributes).text if has else ""
        for item, has in zip(mind.items, covered, strict=True)
    ]
    vectors = encoded(texts, encoder, cache) * np.array(covered, np.float32)[:, None]
    text, side = torch.from_numpy(vectors), attributes(mind.items, ("category", "subcategory"))
    guessed = asyncio.run(zero_shot(mind.items, vectors, load_vocabulary(MIND_VOCABULARY), encoder))
    guessed = [of if has else [] for of, has in zip(guessed, covered, strict=True)]
    told = build_item_labels(side, text)
    table = table_of(mind.items, told.contents)
    train, test = (_shown(impressions, table) for impressions in (mind.train, mind.test))
    variants = (
        Variant(IDS, price=False),
        Variant(SIDE_NAME, told, price=False),
        Variant(TEXT, told, vectors=True, price=False),
        Variant(WORDS, build_item_labels(beside(side, words(mind.items)), text), vectors=True, price=False),
        Variant(ZERO_SHOT, build_item_labels(beside(side, guessed), text), vectors=True, price=False),
    )
    gains = ((SIDE_NAME, IDS), (TEXT, SIDE_NAME), (WORDS, TEXT), (ZERO_SHOT, TEXT), (ZERO_SHOT, WORDS), (TEXT, IDS))
    clicks = [(i.basket.time_ms, item_id) for i in mind.train for item_id in i.basket.item_ids]
    seen = sorted({item_id for i in mind.train for item_id in (*i.basket.item_ids, *i.basket.history.item_ids)})
    return RankingExperiment("mind", table, clicks, TrainedIds(seen), (train,), {"shown": test}, variants, gains)


def _with_sources(told: ItemLabels) -> tuple[Variant, ...]:
    """The same with other models' scores of each candidate; all of it comes last."""
    return (
        Variant(KNN, told, vectors=True, sources=("item-kNN",)),
        Variant(DIFFUSION, told, vectors=True, sources=("diffusion",)),
        Variant(ALL, told, vectors=True, sources=("item-kNN", "diffusion")),
    )


def _ranking(
    experiment: Experiment, variants: tuple[Variant, ...], gains: tuple[tuple[str, str], ...], ages_ms: dict[str, int]
) -> RankingExperiment:
    log = experiment.log
    sales = RecentSales.from_baskets(log.baskets, log.table)
    trainer = Trainer(log, sales, experiment.config, experiment.plan)
    train = some(build_instances(log, experiment.cuts[0], experiment.cuts[-1]), experiment.instances_limit, 1)
    test = some(build_instances(log, *experiment.test), experiment.instances_limit, 2)

    def sources(seed: int) -> dict[str, ScorerFactory]:
        return {
            "item-kNN": lambda cut_ms: KnnScorer(log, cut_ms, experiment.config.history),
            "diffusion": lambda cut_ms: trainer.diffusion(cut_ms, seed),
        }

    again = repeat_candidate_sets(some(train, REPEATS_LIMIT, 3), log.table, 1)
    learnt = (EvaluationPart(train, new_item_candidate_sets(train, log.table, sales, 1)), EvaluationPart(*again))
    parts = {
        "new": EvaluationPart(test, new_item_candidate_sets(test, log.table, sales, 2)),
        "again": EvaluationPart(*repeat_candidate_sets(test, log.table, 2)),
    }
    return RankingExperiment(
        log.name,
        log.table,
        [(basket.time_ms, item_id) for basket in log.baskets for item_id in basket.item_ids],
        experiment.known,
        tuple(part for part in learnt if part.instances),
        {name: part for name, part in parts.items() if part.instances},
        variants,
        gains,
        experiment.cuts,
        sources,
        ages_ms,
    )


def _shown(impressions: Sequence[Impression], table: Snapshot) -> EvaluationPart:
    """What was shown, as candidate_sets: clicks against the rest. All of it is judged, and as much as elsewhere learnt."""
    width = TARGETS + max(LEARNT, max(len(impression.shown) for impression in impressions))
    kept = [i for i in impressions if i.basket.item_ids and i.shown]
    rows, real = torch.zeros(len(kept), width, dtype=torch.long), torch.zeros(len(kept), width, dtype=torch.bool)
    instances = []
    for at, impression in enumerate(kept):
        clicked, shown = table.rows(impression.basket.item_ids[:TARGETS]), table.rows(impression.shown)
        rows[at, : len(clicked)], real[at, : len(clicked)] = clicked, True
        rows[at, TARGETS : TARGETS + len(shown)], real[at, TARGETS : TARGETS + len(shown)] = shown, True
        nothing = np.zeros(0, np.int64)
        instances.append(RankingInstance(impression.basket, clicked.numpy(), nothing, nothing))
    columns = torch.arange(TARGETS, width).expand(len(kept), -1)
    against = torch.where(real[:, TARGETS:], columns, -1).unsqueeze(1).expand(-1, TARGETS, -1)
    return EvaluationPart(instances, CandidateSets(rows, real, {"shown": against}, LEARNT))
