"""Sizing follows from the measurements and grows with the shop."""

import json
from pathlib import Path

import pytest

from benchmarks.sizing import SHOPS, Measured, ShopSize, estimate_needs, read_measured

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
MEASURED = Measured(worker_events_per_s=1_000, rank_s=0.01, table_bytes_per_item=4096)


def test_needs_of_a_small_shop_match_a_calculation_by_hand() -> None:
    shop = ShopSize(items=2**20, users=0, peak_events_per_s=2_500, new_items_per_day=0, peak_rankings_per_s=100)

    needs = estimate_needs(shop, MEASURED)

    assert (needs.workers, needs.partitions) == (5, 12)  # for twice the peak rate; for twice the workers, in fours
    assert (needs.table_gib, needs.table_fits, needs.ranker_cores, needs.reasoning_gpus) == (4.0, True, 2, 0)
    assert needs.redis_gib == pytest.approx((1400 + 2664) * 1.5 / 1024)


def test_a_larger_shop_needs_more_of_everything() -> None:
    delivery, ranking = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("delivery", "ranking"))
    measured = read_measured(delivery, ranking)
    small, middle, large = (estimate_needs(shop, measured) for shop in SHOPS)

    for name in ("workers", "redis_gib", "table_gib", "ranker_cores", "usd_per_month"):
        assert getattr(small, name) < getattr(middle, name) < getattr(large, name)
    assert small.table_fits and not large.table_fits
