"""The agent pipeline: order of the agents, handling of their claims, and rejection of malformed answers."""

import json
from typing import Any

import pytest
from prometheus_client import REGISTRY

from reaseq.knowledge.agents.agent_pipeline import Rejected
from reaseq.knowledge.agents.answers import parse
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.request import Completion
from reaseq.records import ProductKnowledge
from tests.fakes.reasoning import GOOD, PIPELINE, ScriptedModel

MUG = Content.from_listing("RED MUG", {"size": "large"})


def run(model: ScriptedModel, content: Content = MUG) -> Any:
    return PIPELINE.run(content, model)


def values(knowledge: ProductKnowledge) -> set[str]:
    return {claim.value for claim in knowledge.claims}


def dropped(agent: str, reason: str) -> float:
    return REGISTRY.get_sample_value("reaseq_claims_dropped_total", {"speaker": agent, "reason": reason}) or 0.0


async def test_drafting_agents_run_before_critic_and_synthesis() -> None:
    model = ScriptedModel()

    knowledge = await run(model)

    assert model.called_agents == ["demand", "attribute", "relation", "critic", "synthesis"]
    assert [(c.group, c.value, c.confidence, c.evidence, c.reasoner) for c in knowledge.claims] == [
        ("category", "mug", 0.95, "MUG", "llm:stand-in"),
        ("needs", "drink", 0.8, "", "llm:stand-in"),
        ("season", "winter", 0.6, "", "llm:stand-in"),
    ]
    assert (knowledge.product_type, knowledge.profile) == ("tea mug", "A mug for hot drinks.")
    assert (knowledge.complements, knowledge.substitutes) == (("tea pot",), ("glass",))


async def test_dropped_claim_does_not_reach_synthesis() -> None:
    objections = {"reasoning": "", "objections": [{"claim": 1, "verdict": "drop", "note": "no"}]}
    model = ScriptedModel(critic=objections)

    assert values(await run(model)) == {"mug", "winter"}
    assert json.loads(model.requests[-1].user)["claims"] == ["category: mug", "season: winter"]


async def test_objected_claim_is_revised_once() -> None:
    objections = {"reasoning": "", "objections": [{"claim": 1, "verdict": "revise", "note": "it is a present"}]}
    revised = {
        "reasoning": "",
        "needs": [{"value": "give", "confidence": "likely"}, {"value": "drink", "confidence": "likely"}],
    }
    model = ScriptedModel(critic=objections, demand=[GOOD["demand"], revised])

    knowledge = await run(model)

    assert model.called_agents == ["demand", "attribute", "relation", "critic", "demand", "synthesis"]
    assert knowledge.values("needs") == ("give",), "an objected value must not come back"
    repair = json.loads(model.requests[4].user)
    assert repair["objections"] == [{"group": "needs", "value": "drink", "fault": "it is a present"}]


async def test_failed_repair_drops_the_claim() -> None:
    objections = {"reasoning": "", "objections": [{"claim": 1, "verdict": "revise", "note": "?"}]}

    knowledge = await run(ScriptedModel(critic=objections, demand=[GOOD["demand"], "garbage"]))

    assert knowledge.values("needs") == ()


async def test_objection_to_unknown_claim_number_is_ignored() -> None:
    objections = {"reasoning": "", "objections": [{"claim": 77, "verdict": "drop", "note": ""}]}

    assert values(await run(ScriptedModel(critic=objections))) == {"mug", "drink", "winter"}


async def test_rejected_draft_leaves_its_groups_empty() -> None:
    assert values(await run(ScriptedModel(relation="{"))) == {"mug", "drink"}


async def test_rejected_critic_rejects_the_item() -> None:
    with pytest.raises(Rejected, match="critic: malformed_json"):
        await run(ScriptedModel(critic="{"))


async def test_rejected_synthesis_leaves_the_profile_empty() -> None:
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
def test_parse_rejects_malformed_answers(text: str, reason: str) -> None:
    assert parse(PIPELINE.agents["demand"].answer, text) == (None, reason)


@pytest.mark.parametrize("reason", ["truncated", "empty_answer", "garbage_response", "too_large", "http_400", "no_answer"])
async def test_item_is_rejected_if_all_drafts_are(reason: str) -> None:
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


async def test_repeated_and_excess_claims_are_dropped() -> None:
    needs = [{"value": value, "confidence": "likely"} for value in ("read", "read", "give", "drink")]

    assert (await run(ScriptedModel(demand={"reasoning": "", "needs": needs}))).values("needs") == ("read", "give")


async def test_system_prompt_is_identical_for_every_item() -> None:
    one, other = ScriptedModel(), ScriptedModel()
    await run(one)
    await run(other, Content.from_listing("A LAMP", {}))

    assert [request.system for request in one.requests] == [request.system for request in other.requests]
    assert [request.schema for request in one.requests] == [request.schema for request in other.requests]
    assert all(request.user.startswith('{"item":') for request in (*one.requests, *other.requests))


def test_grammar_puts_reasoning_first_and_enumerates_the_vocabulary() -> None:
    schema = json.loads(PIPELINE.agents["demand"].schema)

    assert list(schema["properties"]) == ["reasoning", "needs"]
    assert schema["properties"]["reasoning"]["maxLength"] == 200
    assert schema["properties"]["needs"]["items"]["properties"]["value"]["enum"] == ["drink", "read", "give"]
    assert (schema["properties"]["needs"]["minItems"], schema["properties"]["needs"]["maxItems"]) == (1, 2)
    assert schema["additionalProperties"] is False


def test_long_text_is_truncated() -> None:
    long = Content.from_listing("t" * 1000, {f"a{number}": "x" * 1000 for number in range(32)})

    request = PIPELINE.agents["demand"].build_request(long, text_limit_chars=1500)

    item = json.loads(request.user)["item"]
    assert len(item["title"]) + sum(len(name) + len(value) for name, value in item["attributes"].items()) <= 1500
