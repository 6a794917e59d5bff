"""The demo's report on a terminal and as a page, with hostile data."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from demo.models import MODELS
from demo.page import render, write_report
from demo.terminal import show
from evaluation.judge import SLICES

HOSTILE = "<script>alert(1)</script> [bold][/nope] \x1b[2J"


@pytest.fixture
def report() -> dict[str, Any]:
    """A report with every part, and with metrics that could not be measured."""
    timings = ("event_to_servable", "event_to_inferred", "item_to_text", "item_to_reasoned", "rank", "score")
    return {
        "variant": "quick",
        "hardware": {"cpus": 2, "machine": "x86_64", "torch_threads": 2},
        "phases_s": {"load": 1.0},
        "total_s": 1.0,
        "items_onboarded_by_status": {"reasoned": 2, "text": 1},
        "items_reasoned_by": {"recorded": 2},
        "items_listed_live": 1,
        "events": 1234,
        "events_live": 100,
        "dead_letters": 0,
        "baskets": 7,
        **{f"{name}_p{percent}_ms": 12.5 for name in timings for percent in (50, 99)},
        "item_to_text_p99_ms": None,
        "rank_candidates": 3000,
        "parity": {"rows": 40, "features_not_equal": {}},
        "quality": [
            {
                "model": model,
                "slice": part,
                "targets": 5,
                "hr_10": 0.123,
                "hr_10_gain": [-0.01, 0.02],
                "ndcg_10": 0.2,
                "ndcg_10_gain": [0.01, 0.02],
                "gauc": 0.8,
                "gauc_gain": [0.01, 0.02],
                "gauc_matched": None,
                "gauc_matched_gain": None,
                "hits_by_day": {"15300": [1.0, 5.0], "15301": [2.0, 5.0]},
            }
            for model in MODELS
            for part in SLICES
        ],
        "freshness_by_day_ms": {"15300": {"p50": 10.0, "p99": 30.0}},
        "item_card": {
            "item_id": "i",
            "title": HOSTILE,
            "price": None,
            "status": "reasoned",
            "product_type": "lantern",
            "profile": HOSTILE,
            "claims": {"tier": [{"value": "everyday", "confidence": 1.0, "reasoner": "recorded"}]},
            "complements": [HOSTILE],
            "substitutes": [],
            "fingerprint": "f",
        },
        "customer": {
            "user_id": "1",
            "time_ms": 1_323_000_000_000,
            "basket_lines": 3,
            "behavior_model": "v1",
            "history": [{"title": HOSTILE, "time_ms": 1_323_000_000_000}],
            "inferred": [{"title": HOSTILE, "confidence": 0.01, "bought": True}],
            "ranked": [{"title": HOSTILE, "bought": True, "bought_before": False}],
        },
    }


def test_terminal_shows_metrics_in_eighty_columns(report: dict[str, Any]) -> None:
    printed = io.StringIO()

    show(report, Console(file=printed, width=80, markup=False))

    text = printed.getvalue()
    assert "0.123" in text and "HR@10" in text and "everyday" in text
    assert "[bold][/nope]" in text and r"\x1b[2J" in text and "\x1b" not in text  # a title is text, not markup
    assert "…" not in text


def test_page_contains_metrics_and_charts_and_escapes_data(report: dict[str, Any]) -> None:
    page = render(report)

    assert "0.123" in page and "1,234" in page
    assert page.count("<svg") == 3
    assert "<script" not in page and "&lt;script&gt;" in page


def test_report_without_card_or_customer_is_written(report: dict[str, Any], tmp_path: Path) -> None:
    report |= {"item_card": None, "customer": None, "freshness_by_day_ms": {}}

    write_report(report, tmp_path)

    assert json.loads((tmp_path / "report.json").read_text())["baskets"] == 7
    assert (tmp_path / "report.html").exists()
