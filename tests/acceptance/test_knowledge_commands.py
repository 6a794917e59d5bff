"""The commands about product knowledge, on what the demo left behind, as a user types them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo import ANSWERS

pytestmark = pytest.mark.slow

ITEM = "22423"  # the Regency cake stand, which every part of the sample has


class Shell:
    """Runs commands on a copy of nothing: the demo's own state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __call__(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        named = {f"REASEQ_{name.upper()}": value for name, value in settings.items()}
        env = {**os.environ, "REASEQ_STATE_DIR": str(self.state), "COLUMNS": "160", **named}
        command = [sys.executable, "-m", "reaseq", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def say(self, *arguments: str, **settings: str) -> str:
        run = self(*arguments, **settings)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout


@pytest.fixture(scope="module")
def shell(quick_demo: Path) -> Shell:
    return Shell(quick_demo / "out" / "state")


def test_show_prints_the_card_of_an_item(shell: Shell) -> None:
    card = shell.say("knowledge", "show", ITEM)

    for told in (
        "REGENCY CAKESTAND 3 TIER",
        "reasoned",
        "fingerprint",
        "category",
        "tableware",
        "recorded",
        "profile",
        "goes with",
    ):
        assert told in card, told


def test_show_says_which_item_is_missing_and_where(shell: Shell) -> None:
    run = shell("knowledge", "show", "no such item")

    assert run.returncode == 1 and "no such item" in run.stderr and "Traceback" not in run.stderr


def test_stale_prices_a_model_that_has_not_been_asked_yet(shell: Shell) -> None:
    assert "error: no language model is named" in shell("knowledge", "stale").stderr
    told = shell.say("knowledge", "stale", knowledge__llm__model="a-model")
    stale, items = find_stale(told)
    assert stale == items > 1000 and "llm:a-model@unpinned" in told and "synthesis" in told

    spared = shell.say("knowledge", "stale", knowledge__llm__model="a-model", knowledge__recorded_file=str(ANSWERS))
    assert find_stale(spared)[0] < 0.02 * items, "recorded answers are taken before a model is asked"


def find_stale(told: str) -> tuple[int, int]:
    found = re.search(r"(\d+) of (\d+) items are stale", told)
    assert found, told
    return int(found[1]), int(found[2])


def test_a_catalog_goes_out_as_a_batch_and_answers_come_back(shell: Shell, tmp_path: Path) -> None:
    catalog, requests, answers = tmp_path / "c.parquet", tmp_path / "r.jsonl", tmp_path / "a.jsonl"
    pq.write_table(pa.table({"item_id": ["1", "2"], "title": ["RED MUG", "BLUE LAMP"]}), catalog)
    model = {"state_dir": str(tmp_path / "state"), "knowledge__llm__model": "a-model"}

    assert "6 calls" in shell.say("knowledge", "export-batch", str(catalog), str(requests), **model)
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    body = {
        "choices": [{"message": {"content": "{"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1},
    }
    answers.write_text(
        "\n".join(
            json.dumps({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}}) for line in lines
        )
    )
    assert "malformed_json: 6" in shell.say("knowledge", "import-batch", str(catalog), str(answers), **model)
    assert "no call is missing" in shell.say("knowledge", "export-batch", str(catalog), str(requests), **model)

    costs = json.loads(shell.say("knowledge", "cost", "--json", **model))
    assert sum(cost["tokens_in"] for cost in costs) == 6 * 7
    assert "6 answers" in shell.say("knowledge", "export", str(tmp_path / "ledger.parquet"), **model)
    elsewhere = model | {"state_dir": str(tmp_path / "elsewhere")}
    assert "6 of them new" in shell.say("knowledge", "import", str(tmp_path / "ledger.parquet"), **elsewhere)


def test_a_student_is_trained_measured_and_published(shell: Shell, tmp_path: Path) -> None:
    scores = tmp_path / "student.json"

    told = shell.say("train", "student", "--answers", str(ANSWERS), "--json", str(scores), state_dir=str(tmp_path / "state"))

    assert "published: student" in told and "unseen types" in told
    overall = {(result["items"], result["reasoner"]): result["scores"][-1] for result in json.loads(scores.read_text())}
    for items in ("random", "unseen types"):
        student, zero_shot = overall[items, "student"], overall[items, "zero-shot"]
        assert student["precision"] > zero_shot["precision"] and student["recall"] > zero_shot["recall"]
    assert overall["random", "student"]["calibration_error"] < 0.05


def test_the_cascade_is_drawn_and_a_threshold_named(shell: Shell, tmp_path: Path) -> None:
    told = shell.say("knowledge", "cascade", "--answers", str(ANSWERS), "--out", str(tmp_path / "cascade"))

    assert "of the items need no call" in told
    parts = json.loads((tmp_path / "cascade" / "cascade.json").read_text())
    assert all(part["at_95"]["recall"] >= 0.95 for part in parts)
    assert (tmp_path / "cascade" / "cascade.png").read_bytes().startswith(b"\x89PNG")
