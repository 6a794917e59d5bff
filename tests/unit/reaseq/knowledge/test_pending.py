"""Pending requests: cost forecasts, and the export and import of batch files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reaseq.errors import CatalogError
from reaseq.knowledge.agents.pending import Agents, Forecaster, export_batch, find_pending, import_batch
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.llm.request import Model
from reaseq.knowledge.reasoner import ReasoningItem
from tests.fakes.reasoning import GOOD, MODEL, PIPELINE, ScriptedModel
from tests.unit.reaseq.knowledge.test_ledger import make_reasoner, reason

ITEMS = [ReasoningItem(Content.from_listing(f"MUG {name}", {}), name) for name in "ABC"]


def to_answer(line: str, content: str | None = None, **changes: Any) -> str:
    """The output line of a batch service for one request line."""
    request = json.loads(line)
    agent = request["body"]["response_format"]["json_schema"]["name"]
    message = {"content": json.dumps(GOOD[agent]) if content is None else content}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    answer = {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
    return json.dumps(answer | changes)


async def export_round(ledger: Ledger, path: Path) -> dict[str, int]:
    return dict((await export_batch(Agents(PIPELINE, MODEL, ledger), ITEMS, path)).requests)


async def import_round(ledger: Ledger, path: Path) -> dict[str, int]:
    return dict((await import_batch(Agents(PIPELINE, MODEL, ledger), ITEMS, path)).outcomes)


async def test_catalog_is_answered_in_rounds(tmp_path: Path) -> None:
    ledger, requests, answers = Ledger(tmp_path / "l.db"), tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rounds = []
    while counts := await export_round(ledger, requests):
        rounds.append(counts)
        answers.write_text("\n".join(to_answer(line) for line in requests.read_text().splitlines()))
        assert await import_round(ledger, answers) == {"accepted": sum(counts.values())}

    assert rounds == [{"demand": 3, "attribute": 3, "relation": 3}, {"critic": 3}, {"synthesis": 3}, {"critic": 3}]
    script = ScriptedModel()
    assert all(await reason(make_reasoner(ledger, script), ITEMS)) and not script.requests, "the stream makes no further call"


async def test_exported_request_has_the_openai_batch_format(tmp_path: Path) -> None:
    await export_round(Ledger(tmp_path / "l.db"), tmp_path / "in.jsonl")

    lines = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]

    assert all((line["method"], line["url"]) == ("POST", "/v1/chat/completions") for line in lines)
    assert len({line["custom_id"] for line in lines}) == 9
    assert all(line["body"]["model"] == "stand-in" for line in lines)


async def test_equal_requests_are_exported_once(tmp_path: Path) -> None:
    twins = [ReasoningItem(Content.from_listing("MUG", {}), name) for name in "ab"]

    result = await export_batch(Agents(PIPELINE, MODEL, Ledger(tmp_path / "l.db")), twins, tmp_path / "in.jsonl")

    assert result.requests.total() == 3


async def test_batch_answers_are_validated(tmp_path: Path) -> None:
    ledger, requests, answers = Ledger(tmp_path / "l.db"), tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    await export_round(ledger, requests)
    lines = requests.read_text().splitlines()
    foreign = json.dumps(json.loads(lines[0]) | {"custom_id": "somebody else's"})
    written = [
        to_answer(lines[0], content="{"),
        to_answer(lines[1], content='{"reasoning": 1}'),
        to_answer(lines[2], response={"status_code": 500, "body": {}}),
        to_answer(lines[3], error={"code": "expired"}, response=None),
        to_answer(foreign),
        *(to_answer(line) for line in lines[4:]),
    ]
    answers.write_text("\n".join(written))

    outcomes = await import_round(ledger, answers)

    assert outcomes == {
        **{"accepted": 5, "malformed_json": 1, "invalid_answer": 1, "not_pending": 1},
        **{"unanswered_http_500": 1, "unanswered_expired": 1},
    }
    again = await export_round(ledger, requests)
    assert again == {"demand": 2, "attribute": 1, "relation": 1, "critic": 1}, "unanswered, and malformed ones once more"
    assert ledger.forget_rejected() == {"malformed_json": 1, "invalid_answer": 1}


async def test_import_reports_the_claims_that_will_be_dropped(tmp_path: Path) -> None:
    ledger, requests, answers = Ledger(tmp_path / "l.db"), tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    await export_round(ledger, requests)
    lines = requests.read_text().splitlines()
    needs = [{"value": value, "confidence": "likely", "evidence": ""} for value in ("rule_the_world", "read", "read")]
    answers.write_text(to_answer(lines[0], content=json.dumps({"reasoning": "", "needs": needs})))

    result = await import_batch(Agents(PIPELINE, MODEL, ledger), ITEMS, answers)

    assert result.outcomes == {"accepted": 1}
    assert result.dropped_claims == {("demand", "not_in_vocabulary"): 1, ("demand", "repeated"): 1}


async def test_export_reports_items_whose_answers_were_all_rejected(tmp_path: Path) -> None:
    ledger, requests, answers = Ledger(tmp_path / "l.db"), tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    await export_round(ledger, requests)
    refusal = {"message": {"content": None, "refusal": "I cannot"}, "finish_reason": "stop"}
    response = {"status_code": 200, "body": {"choices": [refusal]}}
    answers.write_text("\n".join(to_answer(line, response=response) for line in requests.read_text().splitlines()))

    assert await import_round(ledger, answers) == {"refusal": 9}
    result = await export_batch(Agents(PIPELINE, MODEL, ledger), ITEMS, requests)

    assert (result.requests, result.rejected) == ({}, {"demand: refusal": 3})


@pytest.mark.parametrize("line", ["{", '{"id": 1}', "[]", '"x"'])
async def test_malformed_batch_file_is_rejected_with_the_line(tmp_path: Path, line: str) -> None:
    ledger, answers = Ledger(tmp_path / "l.db"), tmp_path / "out.jsonl"
    await export_round(ledger, tmp_path / "in.jsonl")
    answers.write_text(to_answer((tmp_path / "in.jsonl").read_text().splitlines()[0]) + "\n" + line + "\n")

    with pytest.raises(CatalogError, match="line 2"):
        await import_round(ledger, answers)


@pytest.mark.parametrize("dress", ["byte-order mark", "blank lines", "no usage", "no finish_reason"])
async def test_batch_file_in_another_dress_is_read(tmp_path: Path, dress: str) -> None:
    ledger, answers = Ledger(tmp_path / "l.db"), tmp_path / "out.jsonl"
    await export_round(ledger, tmp_path / "in.jsonl")
    lines = [json.loads(to_answer(line)) for line in (tmp_path / "in.jsonl").read_text().splitlines()]
    for line in lines:
        if dress == "no usage":
            del line["response"]["body"]["usage"]
        if dress == "no finish_reason":
            del line["response"]["body"]["choices"][0]["finish_reason"]
    text = "\n".join(map(json.dumps, lines))
    answers.write_text({"byte-order mark": "\ufeff" + text, "blank lines": f"\n{text}\n\n  \n"}.get(dress, text))

    assert await import_round(ledger, answers) == {"accepted": 9}


async def test_changed_title_makes_only_that_item_pending(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    await reason(make_reasoner(ledger, ScriptedModel()), ITEMS)
    changed = ReasoningItem(Content.from_listing("MUG A, LARGE", {}), "A")

    pending = [await find_pending(Agents(PIPELINE, MODEL, ledger), item) for item in (changed, *ITEMS[1:])]

    assert [len(found.requests) for found in pending] == [3, 0, 0]


async def test_forecast_estimates_the_cost_of_a_change(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    await reason(make_reasoner(ledger, ScriptedModel()), ITEMS)

    same = Forecaster(Agents(PIPELINE, MODEL, ledger))
    other = Forecaster(Agents(PIPELINE, Model("stand-in", "r2"), ledger))
    await same.add(ITEMS)
    await other.add(ITEMS)

    assert (same.total.items, same.total.calls.total()) == (0, 0)
    assert (other.total.items, other.total.calls.total()) == (3, 18)
    assert (other.total.tokens_in, other.total.tokens_out) == (18 * 100, 18 * 20), "as in past calls"


async def test_changed_prompt_makes_only_its_agent_pending(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    await reason(make_reasoner(ledger, ScriptedModel()), ITEMS[:1])
    relation = replace(PIPELINE.agents["relation"], system=PIPELINE.agents["relation"].system + "\nBe brief.")
    changed = replace(PIPELINE, agents={**PIPELINE.agents, "relation": relation})

    pending = await find_pending(Agents(changed, MODEL, ledger), ITEMS[0])

    assert [request.agent for request in pending.requests] == ["relation"]
