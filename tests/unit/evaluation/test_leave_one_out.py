"""Leave-one-out: the protocol, the scorers and their blend, by hand on a few users."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from evaluation.baselines import sasrec
from evaluation.baselines.sasrec import SasRecConfig
from evaluation.blend import fit_blend
from evaluation.datasets.amazon_beauty import read_sequences
from evaluation.experiments.leave_one_out import (
    BEHAVIOR,
    COMPANIONS,
    FOLLOWERS,
    MAIN,
    POPULARITY,
    SASREC,
    TOLD_DAY,
    TOLD_SALES,
    Catalog,
    LeaveOneOutExperiment,
    score_recent_sales,
)
from evaluation.item_links import Links, link_companions, link_followers, link_same_label, link_similar
from evaluation.leave_one_out import HeldOut, Score, Scores, UserSequences, measure, rank_targets, split
from evaluation.leave_one_out_report import build_report, measure_entries
from evaluation.next_item import NextItemConfig, build_table, draw_examples, train_next_item
from reaseq.behavior.backbone import BackboneConfig
from reaseq.behavior.model import BehaviorConfig
from reaseq.behavior.token_table import ABSENT

SIZES = BehaviorConfig(
    history=3, response=2, dropout=0.0, backbone=BackboneConfig(width=16, layers=1, heads=2, kv_heads=2, feed=16)
)


def sequences(*users: list[int], items: int = 8) -> UserSequences:
    """Users with their rows, one a day from day 10."""
    rows = tuple(np.array(user) for user in users)
    return UserSequences(rows, tuple(np.arange(10, 10 + len(user)) for user in users), items)


def fixed(*scores: list[float]) -> Score:
    """A scorer with the scores of each user."""
    return lambda held_out: np.array(scores, np.float32)


def lists(parts: tuple[NDArray[np.int64], ...]) -> list[list[int]]:
    return [part.tolist() for part in parts]


def test_the_last_item_is_the_test_and_the_one_before_it_the_validation() -> None:
    held = split(sequences([1, 2, 3, 4], [5, 6, 7]))

    assert lists(held.train.rows) == [[1, 2], [5]]
    assert (lists(held.validation.histories.rows), held.validation.targets.tolist()) == ([[1, 2], [5]], [3, 6])
    assert (lists(held.test.histories.rows), held.test.targets.tolist()) == ([[1, 2, 3], [5, 6]], [4, 7])
    assert (lists(held.test.histories.days), held.test.days.tolist()) == ([[10, 11, 12], [10, 11]], [13, 12])


def test_all_items_but_the_unknown_one_are_candidates_and_a_tie_counts_against_the_target() -> None:
    held_out = HeldOut(sequences([1], [1]), np.array([3, 3]), np.array([11, 11]))
    score = fixed([9, 0, 5, 4, 0, 0, 0, 0], [9, 0, 4, 4, 4, 0, 0, 0])

    assert rank_targets(score, held_out).seen_kept.tolist() == [2, 3]


def test_a_target_without_a_number_for_a_score_is_last() -> None:
    held_out = HeldOut(sequences([1]), np.array([3]), np.array([11]))

    assert rank_targets(fixed([0, 1, 2, np.nan, 3, 4, 5, 6]), held_out).seen_kept.tolist() == [7]


def test_items_of_the_history_are_candidates_in_one_column_and_left_out_in_the_other() -> None:
    held_out = HeldOut(sequences([1, 2]), np.array([3]), np.array([12]))

    ranks = rank_targets(fixed([0, 7, 6, 4, 5, 0, 0, 0]), held_out)

    assert (ranks.seen_kept.tolist(), ranks.seen_left_out.tolist()) == ([4], [2])


def test_recall_and_ndcg_have_one_target_a_user() -> None:
    assert measure(np.array([1.0, 3.0, 10.0, 11.0])) == pytest.approx(
        {"recall_10": 0.75, "ndcg_10": (1 + 0.5 + 1 / np.log2(11)) / 4}
    )


def test_sequences_are_in_order_of_days_and_within_a_day_of_the_file(tmp_path: Path) -> None:
    days = ["2014-01-02", "2014-01-02", "2014-01-01", "2014-01-01"]
    columns = {"user_id": ["v", "v", "u", "v"], "asin": ["B", "A", "A", "C"], "timestamp": np.array(days, "datetime64[us]")}
    pq.write_table(pa.table(columns), tmp_path / "interactions.parquet")
    items = {"asin": ["C", "A", "B", "D"], "title": ["c", "a", "b", "d"], "brand": [None] * 4, "categories": [[]] * 4}
    pq.write_table(pa.table(items | {"price": [None] * 4}), tmp_path / "items.parquet")

    read, catalog = read_sequences(tmp_path)

    assert ([item.item_id for item in catalog], read.items) == (["A", "B", "C"], 4)
    assert (lists(read.rows), lists(read.days)) == ([[1], [3, 2, 1]], [[16071], [16071, 16072, 16072]])


def test_followers_are_links_forward_and_companions_in_both_directions() -> None:
    train = sequences([1, 2, 3])

    followers, companions = link_followers(train).toarray(), link_companions(train).toarray()

    assert followers[1, 2] == pytest.approx(1 / 41)  # (1 + SHRINKAGE)^−0.7 · (1 + SHRINKAGE)^−0.3
    assert followers[1, 3] == pytest.approx(followers[1, 2] / np.sqrt(2))
    assert followers[2, 1] == followers[3, 1] == 0
    assert link_followers(train, reach=1).toarray()[1, 3] == 0
    assert companions[1, 3] == companions[3, 1] == pytest.approx(1 / 41)


def test_a_history_fades_with_places() -> None:
    links = Links(link_followers(sequences([1, 4], [2, 5])), decay=0.5)

    scores = links.score(sequences([1, 2])).toarray()[0]

    assert scores[5] == pytest.approx(1 / 41)
    assert scores[4] == pytest.approx(0.5 / 41)


def test_similar_items_are_linked_by_a_power_of_their_cosine_and_none_to_itself() -> None:
    similar = link_similar(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]], np.float32)).toarray()

    assert similar[4] == pytest.approx([0, 0.6**6, 0.8**6, 0, 0])
    assert not similar[0].any() and not similar[:, 0].any()


def test_items_of_a_label_are_linked_by_their_share_of_its_count_and_none_to_itself() -> None:
    same_brand = link_same_label(np.array([0, 1, 1, 0, 2]), np.array([0, 3, 1, 9, 9], np.float32)).toarray()

    assert same_brand[[1, 2], [2, 1]] == pytest.approx([1 / 9, 3 / 9])
    assert same_brand.sum() == pytest.approx(4 / 9)  # nothing to itself, and nothing between items without a brand


def test_a_blend_follows_the_scorer_that_knows() -> None:
    generator = np.random.default_rng(0)
    count, items = 300, 100
    targets = generator.integers(1, items, count)
    noise = generator.random((2, count, items)).astype(np.float32)
    noise[0, np.arange(count), targets] += 0.5

    def member(number: int) -> Score:
        return lambda held_out: noise[number, held_out.days]

    held_out = HeldOut(sequences(*[[1]] * count, items=items), targets, np.arange(count))
    blend = fit_blend([member(0), member(1)], held_out)

    assert blend.weights[0] > 10 * abs(blend.weights[1])
    assert measure(rank_targets(blend.score, held_out).seen_kept)["recall_10"] > 0.4


def test_sasrec_learns_what_follows_what() -> None:
    held_out = HeldOut(sequences([1, 2, 3], [5, 6]), np.array([4, 7]), np.array([13, 12]))
    config = SasRecConfig(width=16, length=3, dropout=0.0, negatives=6, epochs=80, batch=8)

    model = sasrec.train_sasrec(sequences(*[[1, 2, 3, 4], [5, 6, 7]] * 4), config, seed=0)

    assert rank_targets(model.score, held_out).seen_kept.tolist() == [1, 1]
    assert model.score(held_out).sum(1) == pytest.approx([1, 1])


def test_behavior_model_learns_what_follows_what() -> None:
    held_out = HeldOut(sequences([1, 2, 3], [5, 6]), np.array([4, 7]), np.array([13, 12]))
    table = build_table(np.eye(7, dtype=np.float32), [np.zeros(8, np.int64)])
    config = NextItemConfig(SIZES, passes=150, batch_baskets=16, learning_rate=6e-3)

    model = train_next_item(sequences(*[[1, 2, 3, 4], [5, 6, 7]] * 4), table, config)

    assert rank_targets(model.score, held_out).seen_kept.tolist() == [1, 1]
    assert model.score(held_out)[:, 0].tolist() == [0, 0]


def test_an_example_is_a_history_and_what_follows_it() -> None:
    histories, following = draw_examples(sequences([1, 2, 3, 4, 5, 6], [7]), NextItemConfig(SIZES, passes=40))

    drawn = {(tuple(history), tuple(after)) for history, after in zip(histories.tolist(), following.tolist(), strict=True)}
    assert drawn == {
        ((0, 0, 1), (2, 3)),
        ((0, 1, 2), (3, 4)),
        ((1, 2, 3), (4, 5)),
        ((2, 3, 4), (5, 6)),
        ((3, 4, 5), (6, ABSENT)),
    }


def test_labels_of_each_kind_have_claim_ids_of_their_own() -> None:
    table = build_table(np.eye(3, dtype=np.float32), [np.array([0, 1, 2, 0]), np.array([0, 1, 1, 3])])

    assert table.contents.claims.tolist() == [[0, 0], [1, 3], [2, 3], [0, 5]]
    assert table.live.tolist() == [False, True, True, True]


def build_sequences(last: int, before_last: int) -> UserSequences:
    """Twelve users of a small catalog, the first of whom ends with the given items."""
    generator = np.random.default_rng(0)
    users = [generator.permutation(np.arange(1, 80))[:6].tolist() for _ in range(12)]
    users[0][-2:] = [before_last, last]
    return sequences(*users, items=80)


def build_experiment(last: int = 70, before_last: int = 71) -> LeaveOneOutExperiment:
    vectors = np.random.default_rng(1).normal(size=(79, 4))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    catalog = Catalog({"brand": np.arange(80) % 7}, vectors)
    behavior_config = NextItemConfig(SIZES, passes=1)
    return LeaveOneOutExperiment(build_sequences(last, before_last), catalog, SasRecConfig(width=8, epochs=1), behavior_config)


def scores_of(experiment: LeaveOneOutExperiment, of: HeldOut) -> dict[str, Scores]:
    return {entry.name: entry.builds[0]()(of) for entry in experiment.entries(seeds=1)}


def test_nothing_is_learned_from_the_test_and_only_blends_learn_from_validation() -> None:
    others = build_experiment().split.test[np.arange(1, 12)]
    of = HeldOut(others.histories, others.targets, others.days + 1)
    base = scores_of(build_experiment(), of)
    other_test = scores_of(build_experiment(last=72), of)
    other_validation = scores_of(build_experiment(before_last=73), of)

    assert [name for name in base if (base[name] != other_test[name]).any()] == [TOLD_SALES]  # others' sales before the day
    assert all((base[name] == other_validation[name]).all() for name in (POPULARITY, COMPANIONS, FOLLOWERS, SASREC, BEHAVIOR))


def test_only_the_entries_that_say_so_are_told_the_time() -> None:
    experiment = build_experiment()
    test = experiment.split.test
    later = HeldOut(test.histories, test.targets, test.days + 100)
    base, changed = scores_of(experiment, test), scores_of(experiment, later)

    assert [name for name in base if (base[name] != changed[name]).any()] == [TOLD_DAY, TOLD_SALES]


def test_recent_sales_are_those_of_the_days_before_the_target() -> None:
    train = UserSequences((np.array([1, 2]), np.array([2, 3])), (np.array([10, 90]), np.array([95, 99])), 5)
    held_out = HeldOut(sequences([4], [4]), np.array([4, 4]), np.array([99, 98]))

    of_3_days, *_, of_90_days = (score(held_out).tolist() for score in score_recent_sales(train))

    assert of_3_days == [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]  # row 3 was taken on day 99 itself
    assert of_90_days == [[0, 1, 2, 0, 0], [0, 1, 2, 0, 0]]


def test_the_report_opens_with_the_main_entry_and_has_what_was_reached() -> None:
    experiment = build_experiment()
    entries = dict(measure_entries(experiment, seeds=2))
    report = build_report(experiment, entries)
    main = next(entry for entry in experiment.entries(seeds=1) if entry.name == MAIN)

    assert list(report)[:2] == ["recall_10", "ndcg_10"]
    of_main = measure(rank_targets(main.builds[0](), experiment.split.test).seen_kept)
    assert {metric: report[metric] for metric in of_main} == pytest.approx(of_main)
    assert {name: entry["seeds"] for name, entry in entries.items() if entry["seeds"] > 1} == {SASREC: 2, BEHAVIOR: 2}
    assert {name for name, entry in entries.items() if entry["told_time"]} == {TOLD_DAY, TOLD_SALES}
    assert "recall_10" not in build_report(experiment, {POPULARITY: entries[POPULARITY]})
    assert {figure["model"] for figure in report["published"]} >= {"SASRec", "TIGER", "eSASRec"}
