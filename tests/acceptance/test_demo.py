"""The quick demo: one command, a readable report, and models to serve."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_demo_reports_plausible_metrics(quick_demo: Path) -> None:
    report = json.loads((quick_demo / "out" / "report.json").read_text())

    assert report["items_onboarded_by_status"]["reasoned"] > 0
    assert report["dead_letters"] == 0
    assert report["baskets"] > 0
    assert 0 < report["event_to_servable_p50_ms"] <= report["event_to_servable_p99_ms"]
    assert report["event_to_servable_p50_ms"] < report["event_to_inferred_p50_ms"]
    assert 0 < report["rank_p50_ms"] <= report["rank_p99_ms"]
    assert report["parity"]["rows"] > 10 and set(report["parity"]["features_not_equal"]) <= {"ahead"}


def test_page_is_self_contained(quick_demo: Path) -> None:
    page = (quick_demo / "out" / "report.html").read_text()

    assert "<svg" in page
    assert "<script src" not in page and "<link rel" not in page


def test_models_are_published(quick_demo: Path) -> None:
    for kind in ("behavior", "ranker"):
        version = (quick_demo / "state" / "models" / kind / "current").read_text()
        assert (quick_demo / "state" / "models" / kind / version / "manifest.json").exists()
