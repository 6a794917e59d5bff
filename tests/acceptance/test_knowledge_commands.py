"""The `reaseq knowledge` commands and `reaseq train student`, on the state of a finished demo."""

import json
import re
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo import ANSWERS
from tests.commands import run_command

pytestmark = pytest.mark.slow

ITEM = "22423"  # the Regency cake stand, which is in every part of the sample


class Shell:
    """Runs commands on a state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __call__(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        named = {f"REASEQ_{name.upper()}": value for name, value in settings.items()}
        return run_command(*arguments, env={"REASEQ_STATE_DIR": str(self.state), **named})

    def get_output(self, *arguments: str, **settings: str) -> str:
        run = self(*arguments, **settings)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout


@pytest.fixture(scope="module")
def shell(quick_demo: Path) -> Shell:
    return Shell(quick_demo / "out" / "state")


def test_show_prints_the_knowledge_card(shell: Shell) -> None:
    card = shell.get_output("knowledge", "show", ITEM)

    for expected in (
        "REGENCY CAKESTAND 3 TIER",
        "reasoned",
        "fingerprint",
        "category",
        "tableware",
        "recorded",
        "profile",
        "complements",
    ):
        assert expected in card, expected


def test_show_reports_an_unknown_item(shell: Shell) -> None:
    run = shell("knowledge", "show", "no such item")

    assert run.returncode == 1 and "no such item" in run.stderr and "Traceback" not in run.stderr


def test_stale_estimates_the_cost_of_an_unused_model(shell: Shell) -> None:
    assert "error: no language model is configured" in shell("knowledge", "stale").stderr
    output = shell.get_output("knowledge", "stale", knowledge__llm__model="a-model")
    stale, items = parse_stale(output)
    assert stale == items > 1000 and "llm:a-model@unpinned" in output and "synthesis" in output

    with_recorded = shell.get_output(
        "knowledge", "stale", knowledge__llm__model="a-model", knowledge__recorded_file=str(ANSWERS)
    )
    assert parse_stale(with_recorded)[0] < 0.02 * items, "recorded answers are used before the model is called"


def parse_stale(output: str) -> tuple[int, int]:
    found = re.search(r"(\d+) of (\d+) items are stale", output)
    assert found, output
    return int(found[1]), int(found[2])


def test_batch_export_and_import_round_trip(shell: Shell, tmp_path: Path) -> None:
    catalog, requests, answers = tmp_path / "c.parquet", tmp_path / "r.jsonl", tmp_path / "a.jsonl"
    pq.write_table(pa.table({"sku": ["1", "2"], "name": ["RED MUG", "BLUE LAMP"]}), catalog)
    model = {"state_dir": str(tmp_path / "state"), "knowledge__llm__model": "a-model"}
    columns = ("--column", "item_id=sku", "--column", "title=name")

    assert "6 calls" in shell.get_output("knowledge", "export-batch", str(catalog), str(requests), *columns, **model)
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    refusal = {"message": {"content": None, "refusal": "I cannot"}, "finish_reason": "stop"}
    body = {"choices": [refusal], "usage": {"prompt_tokens": 7, "completion_tokens": 0}}
    response = {"status_code": 200, "body": body}
    answers.write_text("\n".join(json.dumps({"custom_id": line["custom_id"], "response": response}) for line in lines))
    imported = shell.get_output("knowledge", "import-batch", str(catalog), str(answers), *columns, **model)
    assert re.search(r"refusal\W+6", imported) and "no answer was accepted" in imported
    exported = shell.get_output("knowledge", "export-batch", str(catalog), str(requests), *columns, **model)
    assert "no calls are pending" in exported and re.search(r"demand: refusal\W+2", exported)

    costs = json.loads(shell.get_output("knowledge", "cost", "--json", **model))
    assert sum(cost["tokens_in"] for cost in costs) == 6 * 7
    assert "6 answers" in shell.get_output("knowledge", "export", str(tmp_path / "ledger.parquet"), **model)
    elsewhere = model | {"state_dir": str(tmp_path / "elsewhere")}
    assert "6 of them new" in shell.get_output("knowledge", "import", str(tmp_path / "ledger.parquet"), **elsewhere)
    assert re.search(r"refusal\W+6", shell.get_output("knowledge", "forget-rejected", "--reason", "refusal", **model))
    assert "6 calls" in shell.get_output("knowledge", "export-batch", str(catalog), str(requests), *columns, **model)


def test_train_student_measures_and_publishes(shell: Shell, tmp_path: Path) -> None:
    scores = tmp_path / "student.json"

    output = shell.get_output(
        "train", "student", "--answers", str(ANSWERS), "--json", str(scores), state_dir=str(tmp_path / "state")
    )

    assert "published: student" in output and "unseen types" in output
    overall = {(result["items"], result["reasoner"]): result["scores"][-1] for result in json.loads(scores.read_text())}
    for items in ("random", "unseen types"):
        student, zero_shot = overall[items, "student"], overall[items, "zero-shot"]
        assert student["recall"] > zero_shot["recall"] and zero_shot["precision"] > 0.5
    assert overall["random", "student"]["calibration_error"] < 0.05


def test_cascade_plots_the_curve_and_names_a_threshold(shell: Shell, tmp_path: Path) -> None:
    output = shell.get_output("knowledge", "cascade", "--answers", str(ANSWERS), "--out", str(tmp_path / "cascade"))

    assert "of the items need no call" in output and "zero-shot, unseen types" in output
    parts = json.loads((tmp_path / "cascade" / "cascade.json").read_text())
    assert all(part["at_95"]["recall"] >= 0.95 for part in parts)
    assert (tmp_path / "cascade" / "cascade.png").read_bytes().startswith(b"\x89PNG")
