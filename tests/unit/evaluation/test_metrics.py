"""Ranking metrics, compared with naive counts and with values computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import metrics

scores = st.lists(st.integers(0, 5), min_size=1, max_size=8).map(lambda values: np.array(values, np.float32))


@given(targets=scores, negatives=scores)
def test_rank_counts_ties_half(targets: np.ndarray, negatives: np.ndarray) -> None:
    naive = [1 + sum(n > t for n in negatives) + 0.5 * sum(n == t for n in negatives) for t in targets]

    assert metrics.rank(targets, negatives).tolist() == naive


def test_rank_ignores_masked_negatives() -> None:
    negatives = np.array([[0.7, 0.5, 0.2], [0.7, 0.5, 9.0]])
    mask = np.array([[True, True, True], [True, True, False]])

    assert metrics.rank(np.array([0.5, 0.1]), negatives, mask).tolist() == [2.5, 3.0]


@given(targets=scores, negatives=scores)
def test_pooled_auc_of_one_list_is_the_mean_of_its_target_aucs(targets: np.ndarray, negatives: np.ndarray) -> None:
    aucs = metrics.target_auc(metrics.rank(targets, negatives), len(negatives))

    assert metrics.pooled_auc(targets, negatives) == pytest.approx(aucs.mean(), abs=1e-6)


def test_target_auc_is_the_share_of_negatives_outranked() -> None:
    ranks, negatives = np.array([[1.0, 3.5, np.nan]], np.float32), np.array([[10, 5, 5]], np.float32)

    assert metrics.target_auc(ranks, negatives)[0, :2].tolist() == [1.0, 0.5]


def test_hit_and_ndcg_match_values_computed_by_hand() -> None:
    ranks = np.array([1.0, 3.0, 10.0, 10.5, np.nan], np.float32)

    assert metrics.hit(ranks, 10)[:4].tolist() == [1, 1, 1, 0] and np.isnan(metrics.hit(ranks, 10)[4])
    assert metrics.ndcg(ranks, 10)[:4].tolist() == pytest.approx([1.0, 0.5, 1 / np.log2(11), 0.0])
    assert np.isnan(metrics.ndcg(ranks, 10)[4])


def test_log_loss_is_the_mean_over_masked_candidates() -> None:
    p = np.array([[0.5, 0.25, 0.9], [0.0, 1.0, 0.5]])
    labels = np.array([[True, False, True], [True, False, False]])
    mask = np.array([[True, True, False], [True, True, True]])

    losses = metrics.log_loss(p, labels, mask)

    assert losses[0] == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)
    assert np.isfinite(losses[1]) and losses[1] > 10  # certain and wrong is finite
