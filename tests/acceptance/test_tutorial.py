"""The tutorial's own commands, word for word, on a small catalog and log of somebody else's make."""

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
from infra import local, process
from infra.scratch import settings_on_free_ports
from reaseq.records import Event
from reaseq.settings import Settings
from tests.unit.streams.operations.test_backfill import written

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL)
EVENTS, SPLIT = 4000, datetime(2014, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = settings_on_free_ports(tmp_path_factory.mktemp("tutorial") / "var" / "beauty")
    settings.service.port = process.free_port()
    settings.knowledge.vocabulary = "beauty-1"
    try:
        yield settings
    finally:
        local.stop_all(settings)


@pytest.fixture(scope="module")
def events(settings: Settings) -> list[Event]:
    """The latest of the sample's events, in files as the tutorial has them; two thirds of them before the day that it names."""
    retail = read_retail(ORDER_LINES)
    events = [event for order in retail.orders for event in order.events][-EVENTS:]
    later = SPLIT - datetime.fromtimestamp(events[EVENTS * 2 // 3].event_time_ms / 1000, UTC)
    titles = {item.item_id: item.title for item in retail.items}
    bought = sorted({event.item_id for event in events})
    folder = settings.state_dir.parents[1]
    written(
        folder / "items.parquet", asin=bought, title=[titles[item_id] for item_id in bought], brand=["a shop"] * len(bought)
    )
    shuffled = sorted(events, key=lambda event: event.user_id)  # user by user, as such files are
    written(
        folder / "interactions.parquet",
        user_id=[event.user_id for event in shuffled],
        asin=[event.item_id for event in shuffled],
        timestamp=[datetime.fromtimestamp(event.event_time_ms / 1000, UTC) + later for event in shuffled],
    )
    return events


def run(settings: Settings, block: str, **replaced: str) -> str:
    for name, value in replaced.items():
        block = block.replace(name, value)
    env = {**os.environ, **local.environment(settings), "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"}
    folder = settings.state_dir.parents[1]
    done = subprocess.run(["bash", "-euc", block], env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_tutorial_ends_in_a_served_ranking(settings: Settings, events: list[Event]) -> None:
    variables, start, send, infer, serve, rank, ask = BLOCKS
    for name in re.findall(r"export (REASEQ_\w+)", variables):
        assert name in local.environment(settings), "the test sets what the tutorial does"

    assert "no ranking service" in run(settings, start)
    sent = run(settings, send)
    before = len([event for event in events if event.event_time_ms < events[EVENTS * 2 // 3].event_time_ms])
    assert f"produced {before} of {before} events" in sent
    assert "published: behavior" in run(settings, infer)
    served = run(settings, serve)
    assert re.search(r"published: ranker \S+", served) and "it ranks by both" in served

    user, items = events[-1].user_id, [event.item_id for event in events[-2:]]
    assert f"user {user} at" in run(settings, rank, A2CG5Y82ZZNY6W=user)
    names = {"A2CG5Y82ZZNY6W": user, "B00LG63DOM": items[0], "B00KFM16OW": items[1]}
    ranking = json.loads(
        run(settings, ask, **names, **{":8080": f":{settings.service.port}", '"time_ms"': '"budget_ms": 5000, "time_ms"'})
    )
    assert ranking["fallback_level"] == "fresh" and ranking["model"] and not ranking["degraded"]
    assert {of["item_id"] for of in ranking["ranked"]} == set(items)
