"""The commands of docs/tutorial.md, word for word, on a small catalog and event log."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from demo import ORDER_LINES
from evaluation.datasets.online_retail import read_retail
from infra import local
from reaseq.records import Event
from reaseq.settings import Settings
from tests.fakes.parquet import write_parquet
from tests.ranking_service import settings_with_patient_service

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL)
EVENTS, SPLIT = 4000, datetime(2014, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = settings_with_patient_service(tmp_path_factory.mktemp("tutorial") / "var" / "beauty")
    settings.knowledge.vocabulary = "beauty-2"
    settings.declaration_file = settings.state_dir.parents[1] / "declaration.py"
    try:
        yield settings
    finally:
        local.stop_all(settings)


@pytest.fixture(scope="module")
def events(settings: Settings) -> list[Event]:
    """The sample's latest events, written to files like the tutorial's. Two thirds are from before the tutorial's day."""
    retail = read_retail(ORDER_LINES)
    events = [event for order in retail.orders for event in order.events][-EVENTS:]
    shift = SPLIT - datetime.fromtimestamp(events[EVENTS * 2 // 3].event_time_ms / 1000, UTC)
    titles = {item.item_id: item.title for item in retail.items}
    bought = sorted({event.item_id for event in events})
    folder = settings.state_dir.parents[1]
    write_parquet(
        folder / "items.parquet",
        asin=bought,
        title=[titles[item_id] for item_id in bought],
        brand=[f"brand {len(titles[item_id]) % 7}" for item_id in bought],
        categories=[["Gifts", f"Aisle {len(titles[item_id]) % 5}"] for item_id in bought],
    )
    by_user = sorted(events, key=lambda event: event.user_id)  # the usual order of such files
    write_parquet(
        folder / "interactions.parquet",
        user_id=[event.user_id for event in by_user],
        asin=[event.item_id for event in by_user],
        timestamp=[datetime.fromtimestamp(event.event_time_ms / 1000, UTC) + shift for event in by_user],
    )
    return events


def run(settings: Settings, block: str, **replacements: str) -> str:
    """Run a block of the tutorial in a shell; returns its output."""
    for text, replacement in replacements.items():
        block = block.replace(text, replacement)
    env = {**os.environ, **local.environment(settings), "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"}
    folder = settings.state_dir.parents[1]
    completed = subprocess.run(["bash", "-euc", block], env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, f"{block}\n{completed.stdout}\n{completed.stderr}"
    return completed.stdout


def test_tutorial_ends_in_a_served_ranking(settings: Settings, events: list[Event]) -> None:
    variables, declare, start, send, train_behavior, train_ranker, rank, request = BLOCKS
    for name in re.findall(r"export (REASEQ_\w+)", variables + declare):
        assert name in local.environment(settings), "the test must set what the tutorial sets"

    assert "brand" in run(settings, declare)
    assert "no ranking service" in run(settings, start)
    sent = run(settings, send)
    before = len([event for event in events if event.event_time_ms < events[EVENTS * 2 // 3].event_time_ms])
    assert f"produced {before} of {before} events" in sent
    assert "published: behavior" in run(settings, train_behavior)
    output = run(settings, train_ranker)
    assert re.search(r"published: ranker \S+", output) and "ranking uses both" in output
    assert "GAUC lost if shuffled" in output

    user, items = events[-1].user_id, [event.item_id for event in events[-2:]]
    explained = run(settings, rank, A2CG5Y82ZZNY6W=user)
    assert f"user {user} at" in explained and "attribute brand" in explained and "attribute categories" in explained
    names = {"A2CG5Y82ZZNY6W": user, "B00LG63DOM": items[0], "B00KFM16OW": items[1]}
    ranking = json.loads(run(settings, request, **names, **{":8080": f":{settings.service.port}"}))
    assert ranking["fallback_level"] == "fresh" and ranking["model"] and not ranking["degraded"]
    assert {ranked["item_id"] for ranked in ranking["ranked"]} == set(items)
