"""The protocol that everything is judged by: nothing of the future leaks into it, and its figures are right."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from evaluation.baselines.item_knn import ItemKnn
from evaluation.candidate_scorers import KnnScorer, ScorerFactory, sequences_at
from evaluation.candidate_sets import (
    EACH,
    MATCHED,
    POPULARITY_MATCHED,
    POPULARITY_SAMPLED,
    REPEATS,
    TARGETS,
    UNIFORM,
    CandidateSets,
    new_item_candidate_sets,
    rank_targets,
    repeat_candidate_sets,
)
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.datasets.mind import TEST_DAY, read_mind
from evaluation.instances import RankingInstance, aged, build_instances, open_to, to_times
from evaluation.intervals import interval
from evaluation.item_labels import attributes, beside, build_item_labels, claims, words
from evaluation.ranking import (
    EvaluationPart,
    Outcome,
    RankingEvaluation,
    RankingExperiment,
    Variant,
    compute_auc,
    counts_at,
    load_outcome,
    save_outcome,
)
from evaluation.ranking_report import report
from reaseq.behavior.examples import Basket
from reaseq.behavior.history import event_key
from reaseq.behavior.popularity import RecentSales
from reaseq.days import DAY_MS
from reaseq.ranker.training import RankerTrainingConfig
from reaseq.records import Claim, History, Item, ProductKnowledge
from reaseq.representation.trained_ids import TrainedIds
from tests.fakes.catalog import CATALOG, DIM, ITEMS, NOW_MS, VOCABULARY

TABLE = CATALOG.snapshot.by_id()


def build_log(users: int = 30, days: int = 40) -> InteractionLog:
    """Users who buy two random items every other day, each basket with the history before it."""
    generator = np.random.default_rng(0)
    baskets = []
    held: dict[str, list[tuple[str, int]]] = {}
    for day in range(days):
        for user in range(day % 2, users, 2):
            time_ms = NOW_MS + day * DAY_MS + user
            item_ids = tuple(f"i{n}" for n in generator.choice(60, 2, replace=False))
            before = held.setdefault(f"u{user}", [])
            history = History(
                item_ids=tuple(i for i, _ in before),
                types=(4,) * len(before),
                times_ms=tuple(t for _, t in before),
                event_keys=tuple(event_key(f"{i}{t}") for i, t in before),
            )
            baskets.append(Basket(f"u{user}", time_ms, item_ids, history))
            before += [(item_id, time_ms) for item_id in item_ids]
    items = tuple(Item(item_id=item_id, title=f"thing {item_id}", event_time_ms=1) for item_id in TABLE.ids[1:])
    return InteractionLog("made up", TABLE, VOCABULARY.size, tuple(baskets), items, np.zeros((ITEMS, DIM), np.float32))


LOG = build_log()
CUT_MS = NOW_MS + 20 * DAY_MS
SALES = RecentSales.from_baskets(LOG.baskets, TABLE)
EVENTS = [(b.time_ms, i) for b in LOG.baskets for i in b.item_ids]
MOMENTS = build_instances(LOG, CUT_MS, NOW_MS + 30 * DAY_MS)


def test_targets_are_new_to_the_user_and_were_on_sale() -> None:
    bought: dict[str, set[str]] = {}
    wanted = {}
    for basket in LOG.baskets:
        wanted[basket.user_id, basket.time_ms] = set(basket.item_ids) - bought.setdefault(basket.user_id, set())
        bought[basket.user_id] |= set(basket.item_ids)

    assert len(MOMENTS) > 50
    for instance in MOMENTS:
        found = {TABLE.ids[row] for row in instance.targets}
        assert found == wanted[instance.basket.user_id, instance.basket.time_ms]
        assert max(instance.basket.history.times_ms) < instance.basket.time_ms


def test_what_may_be_given_is_on_sale_and_not_had_before() -> None:
    allowed = open_to(MOMENTS, TABLE)

    for row, instance in zip(allowed, MOMENTS, strict=True):
        assert not row[0] and not row[torch.from_numpy(instance.bought)].any() and row[torch.from_numpy(instance.targets)].all()


def test_negatives_were_not_bought_and_matched_ones_sold_as_often() -> None:
    candidate_sets = new_item_candidate_sets(MOMENTS, TABLE, SALES, seed=1)

    for place, (instance, rows, real) in enumerate(zip(MOMENTS, candidate_sets.rows, candidate_sets.real, strict=True)):
        assert set(rows[:TARGETS][real[:TARGETS]].tolist()) == set(instance.targets.tolist())
        negatives = set(rows[TARGETS:][real[TARGETS:]].tolist())
        assert not negatives & (set(instance.targets.tolist()) | set(instance.bought.tolist()) | {0})
        sold = SALES.counts(to_times([instance]))[0]
        for target in real[:TARGETS].nonzero().flatten().tolist():
            assert all(
                (candidate_sets.against[kind][place, target] >= 0).sum() == EACH for kind in (UNIFORM, POPULARITY_SAMPLED)
            )
            columns = candidate_sets.against[POPULARITY_MATCHED][place, target]
            matched = rows[columns[columns >= 0]]
            assert len(matched) in (0, MATCHED)
            assert (torch.log2(sold[matched] + 1).long() == torch.log2(sold[rows[target]] + 1).long()).all()


def test_a_repeat_competes_with_what_was_bought_before_and_is_not_bought_now() -> None:
    chosen, candidate_sets = repeat_candidate_sets(MOMENTS, TABLE, seed=1)

    assert len(chosen) == len(candidate_sets) > 10
    for place, instance in enumerate(chosen):
        targets = set(candidate_sets.targets[place].tolist()) - {0}
        assert targets == set(instance.repeats.tolist()[:TARGETS]) and targets <= set(instance.bought.tolist())
        columns = candidate_sets.against[REPEATS][place, 0]
        rivals = set(candidate_sets.rows[place, columns[columns >= 0]].tolist())
        assert rivals and rivals <= set(instance.bought.tolist()) - set(instance.repeats.tolist())
        learnt = set(candidate_sets.rows[place, TARGETS:].tolist())
        assert not learnt & (set(instance.targets.tolist()) | set(instance.repeats.tolist()))


def test_ranks_are_counted_by_hand() -> None:
    real = torch.ones(1, TARGETS + 3, dtype=torch.bool)
    real[0, 2:TARGETS] = False
    columns = torch.tensor([TARGETS, TARGETS + 1, TARGETS + 2]).expand(1, TARGETS, -1).clone()
    columns[0, 1, 2] = -1
    candidate_sets = CandidateSets(torch.arange(TARGETS + 3).unsqueeze(0), real, {UNIFORM: columns}, 3)
    scores = torch.tensor([[0.5, 0.1, *[9.0] * (TARGETS - 2), 0.7, 0.5, 0.2]])

    ranks, counts = rank_targets(scores, candidate_sets, UNIFORM)

    assert ranks[0, :2].tolist() == [2.5, 3.0] and ranks[0, 2:].isnan().all() and counts[0, :2].tolist() == [3, 2]


def changed_log(from_ms: int) -> InteractionLog:
    """The same log until then, and another one after it."""
    baskets = (b if b.time_ms < from_ms else Basket(b.user_id, b.time_ms, ("i7", "i9"), b.history) for b in LOG.baskets)
    return replace(LOG, baskets=tuple(baskets))


@pytest.mark.parametrize("changed", ["later baskets", "the basket itself"])
def test_no_feature_of_a_moment_changes_with_what_came_later(changed: str) -> None:
    instance = MOMENTS[0]
    other = changed_log(instance.basket.time_ms + (1 if changed == "later baskets" else 0))
    candidate_sets = new_item_candidate_sets([instance], TABLE, SALES, seed=1)
    times = [instance.basket.time_ms]

    events = [(b.time_ms, i) for b in other.baskets for i in b.item_ids]
    before, after = (counts_at(of, times, candidate_sets.rows, TABLE, 0) for of in (EVENTS, events))
    again = build_instances(other, CUT_MS, NOW_MS + 30 * DAY_MS)[0] if changed == "later baskets" else instance

    assert np.array_equal(before, after) and before.any()
    assert again.basket.history == instance.basket.history and again.bought.tolist() == instance.bought.tolist()


def test_features_of_an_age_know_nothing_that_is_younger() -> None:
    age_ms = 3 * DAY_MS
    candidate_sets = new_item_candidate_sets(MOMENTS, TABLE, SALES, seed=1)
    old = aged(MOMENTS, age_ms)
    times = to_times(MOMENTS).tolist()

    assert any(len(a.basket.history.item_ids) < len(b.basket.history.item_ids) for a, b in zip(old, MOMENTS, strict=True))
    for instance, was in zip(MOMENTS, old, strict=True):
        until_ms = instance.basket.time_ms - age_ms
        kept = [
            i for i, t in zip(instance.basket.history.item_ids, instance.basket.history.times_ms, strict=True) if t < until_ms
        ]
        assert was.basket.history.item_ids == tuple(kept) and was.basket.time_ms == instance.basket.time_ms
    one = candidate_sets[torch.tensor([5])]
    until_ms = times[5] - age_ms
    seen = [(time, item_id) for time, item_id in EVENTS if time < until_ms]
    assert np.array_equal(
        counts_at(EVENTS, [times[5]], one.rows, TABLE, age_ms), counts_at(seen, [times[5]], one.rows, TABLE, 0)
    )


def test_item_knn_counts_nothing_from_its_cut_on() -> None:
    earlier = tuple(b for b in LOG.baskets if b.time_ms < CUT_MS)
    history = sequences_at(MOMENTS, LOG, 48)

    cut, never_saw = ItemKnn(LOG.baskets, TABLE, CUT_MS), ItemKnn(earlier, TABLE, 2**53)

    assert np.array_equal(cut.by_behavior(history), never_saw.by_behavior(history))
    assert not np.array_equal(cut.by_behavior(history), ItemKnn(LOG.baskets, TABLE, 2**53).by_behavior(history))


def test_material_before_a_cut_holds_nothing_after_it() -> None:
    assert all(basket.time_ms < CUT_MS for basket in LOG.between(0, CUT_MS))


def test_an_interval_holds_the_mean_and_widens_with_the_spread_between_seeds() -> None:
    generator = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 5)
    same = [generator.normal(1.0, 0.1, 500).astype(np.float32) for _ in range(3)]
    apart = [values + offset for values, offset in zip(same, (-0.3, 0.0, 0.3), strict=True)]
    apart[0][:50] = np.nan

    narrow, wide = interval(same, users), interval(apart, users)

    assert narrow.low < narrow.mean < narrow.high and narrow.mean == pytest.approx(1.0, abs=0.02)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


# ---- what rankers are told


def test_labels_that_are_shared_become_ids_and_rare_ones_nothing() -> None:
    labels = [[("a", 1.0), ("b", 0.5)], [("a", 1.0)], [("a", 0.2), ("rare", 1.0)], []]
    told = build_item_labels(labels, torch.ones(4, DIM))

    assert told.claims == 2 and told.contents.claims[:, 0].tolist() == [0, 1, 1, 1, 0]
    assert told.contents.confidences[:, 0].tolist() == pytest.approx([0, 1, 1, 0.2, 0])
    assert (told.contents.vectors[0] == 0).all() and (told.contents.vectors[1:] == 1).all()


def test_labels_come_from_attributes_words_and_claims() -> None:
    items = [
        Item(item_id="1", title="RED Mug 4 cm", attributes={"brand": "X", "category 1": "Y", "abstract": "Z"}, event_time_ms=1),
        *(Item(item_id=str(n), title="mug", event_time_ms=1) for n in range(2, 9)),
    ]
    answer = ProductKnowledge(vocabulary="v", claims=(Claim("style", "retro", 0.7, "r"),))

    assert attributes(items, ("brand", "category"))[0] == [("brand=X", 1.0), ("category 1=Y", 1.0)]
    assert words(items)[0] == [("word=red", 1.0)]  # "mug" is in most of them
    assert claims([answer, None]) == [[("style=retro", 0.7)], []]
    assert beside([[("a", 1.0)]], [[("b", 1.0)]]) == [[("a", 1.0), ("b", 1.0)]]


def test_mind_is_clicks_among_what_was_shown(tmp_path: Path) -> None:
    news = {"news_id": ["N1", "N2"], "category": ["a", "b"], "subcategory": ["c", None], "title": ["one", "two"]}
    pq.write_table(pa.table(news | {"abstract": ["text", None], "source": ["s", "s"]}), tmp_path / "news.parquet")
    rows = {"user_id": ["U2", "U1"], "time": [1573257700, 1573257600], "history": [["N1", "gone"], None]}
    shown = {"candidates": [["N1", "N2"], ["N2", "N1"]], "clicked": [[0, 1], [1, 0]]}
    pq.write_table(pa.table(rows | shown), tmp_path / "impressions_train.parquet")
    pq.write_table(
        pa.table({"history": [["N2"]], "candidates": [["N1"]], "clicked": [[1]]}), tmp_path / "impressions_test.parquet"
    )

    mind = read_mind(tmp_path)

    assert [item.item_id for item in mind.items] == ["N1", "N2", "gone"]
    assert mind.items[0].attributes == {"category": "a", "subcategory": "c", "abstract": "text"}
    assert [(i.basket.user_id, i.basket.item_ids, i.shown) for i in mind.train] == [
        ("U1", ("N2",), ("N1",)),
        ("U2", ("N2",), ("N1",)),
    ]
    assert mind.train[1].basket.history.item_ids == ("N1", "gone")
    assert mind.train[1].basket.history.times_ms[0] < mind.train[1].basket.time_ms
    assert mind.test[0].basket.user_id == "test 0" and TEST_DAY == "2019-11-15"


# ---- the whole


class Oracle:
    """A stand-in for a source that was made before a cut: it knows the targets, and remembers what it was asked about."""

    def __init__(self, cut_ms: int) -> None:
        self.cut_ms = cut_ms
        self.asked: list[int] = []

    def scores(self, instances: Sequence[RankingInstance], rows: Tensor) -> Tensor:
        self.asked += [instance.basket.time_ms for instance in instances]
        told = torch.stack([torch.isin(row, torch.from_numpy(m.targets)) for row, m in zip(rows, instances, strict=True)])
        return told.float().unsqueeze(-1) * 3


def experiment(sources: dict[str, ScorerFactory], ages_ms: dict[str, int] | None = None) -> RankingExperiment:
    cuts = (NOW_MS + 8 * DAY_MS, NOW_MS + 14 * DAY_MS, CUT_MS)
    train, again = build_instances(LOG, cuts[0], cuts[-1]), MOMENTS
    told = build_item_labels([[] for _ in LOG.items], TABLE.vectors[1:])
    return RankingExperiment(
        "made up",
        TABLE,
        EVENTS,
        TrainedIds(sorted({i for b in LOG.between(0, cuts[-1]) for i in b.item_ids})),
        (
            EvaluationPart(train, new_item_candidate_sets(train, TABLE, SALES, 1)),
            EvaluationPart(*repeat_candidate_sets(train, TABLE, 1)),
        ),
        {
            "new": EvaluationPart(MOMENTS, new_item_candidate_sets(MOMENTS, TABLE, SALES, 2)),
            "again": EvaluationPart(*repeat_candidate_sets(again, TABLE, 2)),
        },
        (Variant("ids", price=False), Variant("told", told, vectors=True, sources=tuple(sources))),
        (("told", "ids"),),
        cuts,
        lambda seed: sources,
        ages_ms or {},
        RankerTrainingConfig(),
    )


def test_a_source_speaks_only_of_what_came_after_its_cut_and_what_it_knows_shows_in_every_figure(tmp_path: Path) -> None:
    made: list[Oracle] = []

    def make(cut_ms: int) -> Oracle:
        made.append(Oracle(cut_ms))
        return made[-1]

    judged = experiment({"oracle": make}, {"0 s": 0, "2 days": 2 * DAY_MS})
    said: list[str] = []
    outcome = RankingEvaluation(judged).run(0, said.append, {})
    save_outcome(outcome, tmp_path / "outcome.npz")
    figures = report(judged, [load_outcome(tmp_path / "outcome.npz"), outcome])
    kept: list[Outcome] = []
    without = {name: values for name, values in outcome.items() if not name.startswith("ids|")}
    again = RankingEvaluation(experiment({})).run(0, said.append, without, kept.append)  # needs no source for what is known

    for source, end_ms in zip(made, [*judged.cuts[1:], 2**62], strict=True):
        assert source.asked and source.cut_ms <= min(source.asked) and max(source.asked) < end_ms
    new = figures["parts"]["new"]
    assert set(new["variants"]) == {"ids", "told", "told, 0 s old", "told, 2 days old"}
    assert new["variants"]["told"][UNIFORM]["gauc"]["mean"] > 0.95 > new["variants"]["ids"][UNIFORM]["gauc"]["mean"]
    assert new["variants"]["told"][UNIFORM]["auc"] > 0.95 and new["variants"]["told"][UNIFORM]["hr_10"]["mean"] > 0.9
    assert new["variants"]["told"][UNIFORM]["logloss"]["mean"] < new["variants"]["ids"][UNIFORM]["logloss"]["mean"]
    assert new["gains"]["told over ids"][UNIFORM]["gauc"]["low"] > 0.05
    assert new["variants"]["told, 0 s old"] == new["variants"]["told"]
    assert sum(new["targets_by_times_seen"].values()) == new["targets"]
    assert set(figures["parts"]["again"]["variants"]["ids"]) == {REPEATS}
    assert again.keys() == outcome.keys() == kept[0].keys()
    assert len(said) == 5 and said[0].startswith("ids: uniform 0.")


def test_the_same_seed_gives_the_same_outcome_and_what_came_after_the_test_changes_nothing() -> None:
    def run(log: InteractionLog) -> Outcome:
        judged = experiment({"item-kNN": lambda cut_ms: KnnScorer(log, cut_ms, 48)})
        return RankingEvaluation(replace(judged, events=[(b.time_ms, i) for b in log.baskets for i in b.item_ids])).run(
            0, lambda line: None, {}
        )

    whole, again = run(LOG), run(LOG)
    future = run(changed_log(NOW_MS + 30 * DAY_MS))

    for name, values in whole.items():
        assert np.allclose(values, again[name], atol=1e-6, equal_nan=True), name
        assert np.allclose(values, future[name], atol=1e-6, equal_nan=True), name


def test_auc_is_the_share_of_negatives_that_a_target_is_above() -> None:
    outcome = {"v|k|rank": np.array([[1.0, 3.5, np.nan]], np.float32), "v|k|rivals": np.array([[10, 5, 5]], np.float32)}

    assert compute_auc(outcome, "v", "k")[0, :2].tolist() == [1.0, 0.5]
