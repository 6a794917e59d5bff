"""The agents: in which order they speak, what becomes of their claims, and what garbage turns into."""

import json
from typing import Any

import pytest
from prometheus_client import REGISTRY

from reaseq.knowledge.agents.agent_pipeline import Rejected
from reaseq.knowledge.agents.answers import parse
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.call import Completion
from reaseq.records import ProductKnowledge
from tests.fakes.reasoning import GOOD, PIPELINE, ScriptedModel

MUG = Content.from_listing("RED MUG", {"size": "large"})


def run(model: ScriptedModel, content: Content = MUG) -> Any:
    return PIPELINE.run(content, model)


def values(knowledge: ProductKnowledge) -> set[str]:
    return {claim.value for claim in knowledge.claims}


def dropped(speaker: str, reason: str) -> float:
    return REGISTRY.get_sample_value("reaseq_claims_dropped_total", {"speaker": speaker, "reason": reason}) or 0.0


async def test_three_draft_then_the_critic_then_the_synthesis() -> None:
    model = ScriptedModel()

    knowledge = await run(model)

    assert model.asked == ["demand", "attribute", "relation", "critic", "synthesis"]
    assert [(c.group, c.value, c.confidence, c.evidence, c.reasoner) for c in knowledge.claims] == [
        ("category", "mug", 0.95, "MUG", "llm:stand-in"),
        ("needs", "drink", 0.8, "", "llm:stand-in"),
        ("season", "winter", 0.6, "", "llm:stand-in"),
    ]
    assert (knowledge.product_type, knowledge.profile) == ("tea mug", "A mug for hot drinks.")
    assert (knowledge.complements, knowledge.substitutes) == (("tea pot",), ("glass",))


async def test_a_claim_that_the_critic_drops_does_not_reach_the_synthesis() -> None:
    objections = {"reasoning": "", "objections": [{"claim": 1, "verdict": "drop", "note": "no"}]}
    model = ScriptedModel(critic=objections)

    assert values(await run(model)) == {"mug", "winter"}
    assert json.loads(model.calls[-1].user)["claims"] == ["category: mug", "season: winter"]


async def test_a_claim_that_is_sent_back_is_revised_once() -> None:
    objections = {"reasoning": "", "objections": [{"claim": 1, "verdict": "revise", "note": "it is a present"}]}
    revised = {
        "reasoning": "",
        "needs": [{"value": "give", "confidence": "likely"}, {"value": "drink", "confidence": "likely"}],
    }
    model = ScriptedModel(critic=objections, demand=[GOOD["demand"], revised])

    knowledge = await run(model)

    assert model.asked == ["demand", "attribute", "relation", "critic", "demand", "synthesis"]
    assert knowledge.values("needs") == ("give",), "what was objected to does not come back"
    repair = json.loads(model.calls[4].user)
    assert repair["objections"] == [{"group": "needs", "value": "drink", "fault": "it is a present"}]


async def test_a_repair_that_fails_leaves_the_claim_out() -> None:
    objections = {"reasoning": "", "objections": [{"claim": 1, "verdict": "revise", "note": "?"}]}

    knowledge = await run(ScriptedModel(critic=objections, demand=[GOOD["demand"], "garbage"]))

    assert knowledge.values("needs") == ()


async def test_an_objection_to_a_claim_that_is_not_there_changes_nothing() -> None:
    objections = {"reasoning": "", "objections": [{"claim": 77, "verdict": "drop", "note": ""}]}

    assert values(await run(ScriptedModel(critic=objections))) == {"mug", "drink", "winter"}


async def test_an_agent_without_a_usable_answer_leaves_its_groups_empty() -> None:
    assert values(await run(ScriptedModel(relation="{"))) == {"mug", "drink"}


async def test_claims_that_nobody_has_checked_do_not_stand() -> None:
    with pytest.raises(Rejected, match="critic: malformed_json"):
        await run(ScriptedModel(critic="{"))


async def test_a_synthesis_without_a_usable_answer_leaves_the_profile_empty() -> None:
    assert (await run(ScriptedModel(synthesis="{"))).profile == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed_json"),
        ("null", "invalid_answer"),
        ("[]", "invalid_answer"),
        ('{"reasoning": "so", "needs": [', "malformed_json"),
        ("{'reasoning': 'so'}", "malformed_json"),
        ('{"reasoning": "so"}', "invalid_answer"),
        ('{"reasoning": 7, "needs": []}', "invalid_answer"),
        ('{"reasoning": "so", "needs": "drink"}', "invalid_answer"),
        ('{"reasoning": "so", "needs": [{"value": "drink", "confidence": 0.9}]}', "invalid_answer"),
        ('{"reasoning": "so", "needs": [{"value": "drink", "confidence": "certain", "evidence": null}]}', "invalid_answer"),
        ('{"reasoning": "so", "needs": [], "system": "obey"}', "invalid_answer"),
        (json.dumps({"reasoning": "x" * 100_000, "needs": []}), "invalid_answer"),
        (json.dumps({"reasoning": "", "needs": [{"value": "drink", "confidence": "likely"}] * 10_000}), "invalid_answer"),
        ("[" * 100_000, "malformed_json"),
        ("```json\n{}\n```", "malformed_json"),
        ('{"reasoning": "\\ud83d", "needs": []}', "malformed_json"),
    ],
)
def test_garbage_becomes_a_reason(text: str, reason: str) -> None:
    assert parse(PIPELINE.agents["demand"].answer, text) == (None, reason)


@pytest.mark.parametrize("reason", ["truncated", "empty_answer", "garbage_response", "too_large", "http_400", "no_answer"])
async def test_an_item_is_refused_with_the_reason_when_no_draft_is_usable(reason: str) -> None:
    rejected = Completion(rejected=reason)

    with pytest.raises(Rejected) as rejection:
        await run(ScriptedModel(demand=rejected, attribute=rejected, relation=rejected))

    assert rejection.value.reason == reason


async def test_values_outside_the_vocabulary_are_dropped_and_counted() -> None:
    before = dropped("demand", "not_in_vocabulary")
    needs = [{"value": "rule the world", "confidence": "certain"}, {"value": "read", "confidence": "likely"}]

    assert values(await run(ScriptedModel(demand={"reasoning": "", "needs": needs}))) == {"mug", "read", "winter"}
    assert dropped("demand", "not_in_vocabulary") == before + 1


@pytest.mark.parametrize(("evidence", "reason"), [("BLUE MUG", "evidence_not_found"), ("", "no_evidence")])
async def test_evidence_must_occur_in_the_item(evidence: str, reason: str) -> None:
    before = dropped("attribute", reason)
    category = [{"value": "mug", "confidence": "certain", "evidence": evidence}]

    assert values(await run(ScriptedModel(attribute={**GOOD["attribute"], "category": category}))) == {"drink", "winter"}
    assert dropped("attribute", reason) == before + 1


async def test_what_is_too_much_or_said_twice_is_cut() -> None:
    needs = [{"value": value, "confidence": "likely"} for value in ("read", "read", "give", "drink")]

    assert (await run(ScriptedModel(demand={"reasoning": "", "needs": needs}))).values("needs") == ("read", "give")


async def test_the_system_prompt_is_the_same_bytes_for_every_item() -> None:
    one, other = ScriptedModel(), ScriptedModel()
    await run(one)
    await run(other, Content.from_listing("A LAMP", {}))

    assert [call.system for call in one.calls] == [call.system for call in other.calls]
    assert [call.schema for call in one.calls] == [call.schema for call in other.calls]
    assert all(call.user.startswith('{"item":') for call in (*one.calls, *other.calls))


def test_the_grammar_asks_for_the_thinking_first_and_knows_the_vocabulary() -> None:
    schema = json.loads(PIPELINE.agents["demand"].schema)

    assert list(schema["properties"]) == ["reasoning", "needs"]
    assert schema["properties"]["reasoning"]["maxLength"] == 200
    assert schema["properties"]["needs"]["items"]["properties"]["value"]["enum"] == ["drink", "read", "give"]
    assert schema["properties"]["needs"]["minItems"], schema["properties"]["needs"]["maxItems"] == (1, 2)
    assert schema["additionalProperties"] is False


def test_long_text_is_cut_before_it_is_paid_for() -> None:
    long = Content.from_listing("t" * 1000, {f"a{place}": "x" * 1000 for place in range(32)})

    call = PIPELINE.agents["demand"].ask(long, text_limit_chars=1500)

    item = json.loads(call.user)["item"]
    assert len(item["title"]) + sum(len(name) + len(value) for name, value in item["attributes"].items()) <= 1500
