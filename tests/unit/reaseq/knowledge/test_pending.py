"""What is still to be asked: priced before it is asked, and carried out and back in batch files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reaseq.errors import CatalogError
from reaseq.knowledge.agents.pending import Agents, Forecaster, export_batch, import_batch, pending_calls
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.call import Model
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.reasoner import ReasoningItem
from tests.fakes.reasoning import GOOD, MODEL, PIPELINE, ScriptedModel
from tests.unit.reaseq.knowledge.test_ledger import reason, reasoner

SUBJECTS = [ReasoningItem(Content.from_listing(f"MUG {letter}", {}), letter) for letter in "ABC"]


def answered(line: str, content: str | None = None, **changes: Any) -> str:
    """What a batch service writes for one request."""
    request = json.loads(line)
    agent = request["body"]["response_format"]["json_schema"]["name"]
    message = {"content": json.dumps(GOOD[agent]) if content is None else content}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    answer = {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
    return json.dumps(answer | changes)


async def export(ledger: Ledger, path: Path) -> dict[str, int]:
    return dict(await export_batch(Agents(PIPELINE, MODEL, ledger), SUBJECTS, path))


async def take(ledger: Ledger, path: Path) -> dict[str, int]:
    return dict(await import_batch(Agents(PIPELINE, MODEL, ledger), SUBJECTS, path))


async def test_a_catalog_is_reasoned_about_round_by_round(tmp_path: Path) -> None:
    ledger, requests, answers = Ledger(tmp_path / "l.db"), tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rounds = []
    while counts := await export(ledger, requests):
        rounds.append(counts)
        answers.write_text("\n".join(answered(line) for line in requests.read_text().splitlines()))
        assert await take(ledger, answers) == {"accepted": sum(counts.values())}

    assert rounds == [{"demand": 3, "attribute": 3, "relation": 3}, {"critic": 3}, {"synthesis": 3}]
    script = ScriptedModel()
    assert all(await reason(reasoner(ledger, script), SUBJECTS)) and not script.calls, "the stream asks nothing again"


async def test_a_request_is_what_a_batch_service_expects(tmp_path: Path) -> None:
    await export(Ledger(tmp_path / "l.db"), tmp_path / "in.jsonl")

    lines = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]

    assert all((line["method"], line["url"]) == ("POST", "/v1/chat/completions") for line in lines)
    assert len({line["custom_id"] for line in lines}) == 9
    assert all(line["body"]["model"] == "stand-in" for line in lines)


async def test_equal_texts_are_written_once(tmp_path: Path) -> None:
    twins = [ReasoningItem(Content.from_listing("MUG", {}), name) for name in "ab"]

    counts = await export_batch(Agents(PIPELINE, MODEL, Ledger(tmp_path / "l.db")), twins, tmp_path / "in.jsonl")

    assert counts.total() == 3


async def test_answers_of_a_batch_are_checked_like_live_ones(tmp_path: Path) -> None:
    ledger, requests, answers = Ledger(tmp_path / "l.db"), tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    await export(ledger, requests)
    lines = requests.read_text().splitlines()
    foreign = json.dumps(json.loads(lines[0]) | {"custom_id": "somebody else's"})
    written = [
        answered(lines[0], content="{"),
        answered(lines[1], content='{"reasoning": 1}'),
        answered(lines[2], response={"status_code": 500, "body": {}}),
        answered(lines[3], error={"code": "expired"}, response=None),
        answered(foreign),
        *(answered(line) for line in lines[4:]),
    ]
    answers.write_text("\n".join(written))

    outcomes = await take(ledger, answers)

    assert outcomes == {"accepted": 5, "malformed_json": 1, "invalid_answer": 1, "not_asked": 1}
    again = await export(ledger, requests)
    assert again["demand"] == 1, "what was not answered is asked again"


@pytest.mark.parametrize("line", ["{", '{"id": 1}', "[]", '"x"'])
async def test_a_file_that_no_batch_service_writes_is_refused_with_the_line(tmp_path: Path, line: str) -> None:
    ledger, answers = Ledger(tmp_path / "l.db"), tmp_path / "out.jsonl"
    await export(ledger, tmp_path / "in.jsonl")
    answers.write_text(answered((tmp_path / "in.jsonl").read_text().splitlines()[0]) + "\n" + line + "\n")

    with pytest.raises(CatalogError, match="line 2"):
        await take(ledger, answers)


async def test_a_changed_title_concerns_that_item_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    await reason(reasoner(ledger, ScriptedModel()), SUBJECTS)
    changed = ReasoningItem(Content.from_listing("MUG A, LARGE", {}), "A")

    missing = [await pending_calls(Agents(PIPELINE, MODEL, ledger), item) for item in (changed, *SUBJECTS[1:])]

    assert [len(calls) for calls in missing] == [3, 0, 0]


async def test_a_forecast_prices_a_change_before_it_is_made(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    await reason(reasoner(ledger, ScriptedModel()), SUBJECTS)

    same = Forecaster(Agents(PIPELINE, MODEL, ledger))
    other = Forecaster(Agents(PIPELINE, Model("stand-in", "r2"), ledger))
    await same.add(SUBJECTS)
    await other.add(SUBJECTS)

    assert (same.total.items, same.total.calls.total()) == (0, 0)
    assert (other.total.items, other.total.calls.total()) == (3, 15)
    assert (other.total.tokens_in, other.total.tokens_out) == (15 * 100, 15 * 20), "by what such calls took before"


async def test_a_changed_prompt_asks_only_what_it_touches(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    await reason(reasoner(ledger, ScriptedModel()), SUBJECTS[:1])
    relation = replace(PIPELINE.agents["relation"], system=PIPELINE.agents["relation"].system + "\nBe brief.")
    changed = replace(PIPELINE, agents={**PIPELINE.agents, "relation": relation})

    assert [call.agent for call in await pending_calls(Agents(changed, MODEL, ledger), SUBJECTS[0])] == ["relation"]
