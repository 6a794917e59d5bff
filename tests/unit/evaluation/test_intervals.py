"""Means with intervals over users and seeds."""

import numpy as np
import pytest

from evaluation.intervals import estimate_mean


def test_interval_contains_the_mean_and_widens_with_the_spread_between_seeds() -> None:
    generator = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 5)
    same = [generator.normal(1.0, 0.1, 500).astype(np.float32) for _ in range(3)]
    apart = [values + offset for values, offset in zip(same, (-0.3, 0.0, 0.3), strict=True)]
    apart[0][:50] = np.nan

    narrow, wide = estimate_mean(same, users), estimate_mean(apart, users)

    assert narrow.low < narrow.mean < narrow.high and narrow.mean == pytest.approx(1.0, abs=0.02)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
