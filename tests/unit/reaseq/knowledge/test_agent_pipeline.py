"""The agent pipeline: order of the agents, handling of their claims, and rejection of malformed answers."""

import json
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from reaseq.knowledge.agents.agent_pipeline import Rejected
from reaseq.knowledge.agents.prompts import make_agents
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.request import Completion
from reaseq.knowledge.vocabulary import Group, Vocabulary, load_vocabulary
from reaseq.records import ProductKnowledge
from tests.fakes.reasoning import GOOD, MODEL, PIPELINE, ScriptedModel

MUG = Content.from_listing("RED MUG", {"size": "large"})


def run(model: ScriptedModel, content: Content = MUG) -> Any:
    return PIPELINE.run(content, model)


def values(knowledge: ProductKnowledge) -> set[str]:
    return {claim.value for claim in knowledge.claims}


def dropped(agent: str, reason: str) -> float:
    return REGISTRY.get_sample_value("reaseq_claims_dropped_total", {"speaker": agent, "reason": reason}) or 0.0


def objections(*entries: tuple[int, str]) -> dict[str, Any]:
    """The critic's answer; every note is "no"."""
    return {"reasoning": "", "objections": [{"claim": number, "verdict": verdict, "note": "no"} for number, verdict in entries]}


def corrections(*entries: tuple[int, str]) -> dict[str, Any]:
    """The repair's answer."""
    listed = [{"claim": number, "value": value, "confidence": "likely", "evidence": ""} for number, value in entries]
    return {"reasoning": "", "corrections": listed}


NEWS: dict[str, Any] = GOOD["critic"]  # of the second review


async def test_drafting_agents_run_before_critic_and_synthesis() -> None:
    model = ScriptedModel()

    knowledge = await run(model)

    assert model.called_agents == ["demand", "attribute", "relation", "critic", "synthesis", "critic"]
    assert [(c.group, c.value, c.confidence, c.evidence, c.reasoner) for c in knowledge.claims] == [
        ("category", "mug", 0.95, "MUG", "llm:stand-in"),
        ("needs", "drink", 0.8, "", "llm:stand-in"),
        ("season", "winter", 0.6, "", "llm:stand-in"),
    ]
    assert (knowledge.product_type, knowledge.profile) == ("tea mug", "A mug for hot drinks.")
    assert (knowledge.complements, knowledge.substitutes) == (("tea pot",), ("glass",))


async def test_critic_sees_everything_that_is_published_with_the_meaning_of_the_values() -> None:
    model = ScriptedModel()

    await run(model)

    first, second = (json.loads(request.user)["claims"] for request in model.requests if request.agent == "critic")
    assert first == {
        "1": "needs: drink (To drink.)",
        "2": 'category: mug (To drink from.) "MUG"',
        "3": "season: winter (Cold.)",
        "4": "product_type: tea mug",
        "5": "complements: tea pot",
        "6": "substitutes: glass",
    }
    assert second == {"1": "profile: A mug for hot drinks."}


async def test_dropped_claim_does_not_reach_synthesis() -> None:
    model = ScriptedModel(critic=[objections((1, "drop")), NEWS])

    assert values(await run(model)) == {"mug", "winter"}
    assert json.loads(model.requests[-2].user)["claims"] == ["category: mug", "season: winter"]


@pytest.mark.parametrize("verdict", ["drop", "revise"])
async def test_free_text_that_the_critic_objects_to_is_dropped(verdict: str) -> None:
    knowledge = await run(ScriptedModel(critic=[objections((4, verdict), (6, verdict)), objections((1, verdict))]))

    assert values(knowledge) == {"mug", "drink", "winter"}
    assert (knowledge.product_type, knowledge.complements, knowledge.substitutes) == ("", ("tea pot",), ())
    assert knowledge.profile == ""


async def test_objected_claim_is_revised_once() -> None:
    model = ScriptedModel(critic=[objections((1, "revise")), NEWS], repair=corrections((1, "give")))

    knowledge = await run(model)

    assert model.called_agents == ["demand", "attribute", "relation", "critic", "repair", "synthesis", "critic"]
    assert knowledge.values("needs") == ("give",)
    asked = json.loads(model.requests[4].user)
    assert asked["objections"] == [{"claim": 1, "group": "needs", "value": "drink", "fault": "no"}]
    assert asked["groups"] == {"needs": {"drink": "To drink.", "read": "To read.", "give": "To give."}}
    assert json.loads(model.requests[-1].user)["claims"]["1"] == "needs: give (To give.)"


@pytest.mark.parametrize("value", ["drink", "no such value", ""])
async def test_objected_value_does_not_come_back(value: str) -> None:
    model = ScriptedModel(critic=[objections((1, "revise")), NEWS], repair=corrections((1, value)))

    assert (await run(model)).values("needs") == ()


async def test_dropped_value_does_not_come_back_in_place_of_another() -> None:
    needs = [{"value": value, "confidence": "likely", "evidence": ""} for value in ("drink", "read")]
    model = ScriptedModel(
        demand={"reasoning": "", "needs": needs},
        critic=[objections((1, "drop"), (2, "revise")), NEWS],
        repair=corrections((2, "drink")),
    )

    assert (await run(model)).values("needs") == ()


async def test_correction_of_a_claim_that_nobody_objected_to_is_ignored() -> None:
    model = ScriptedModel(critic=[objections((1, "revise")), NEWS], repair=corrections((3, "summer"), (9, "read")))

    assert values(await run(model)) == {"mug", "winter"}


async def test_critic_has_the_last_word_on_corrections() -> None:
    model = ScriptedModel(critic=[objections((1, "revise")), objections((1, "drop"))], repair=corrections((1, "give")))

    knowledge = await run(model)

    assert knowledge.values("needs") == ()
    assert knowledge.profile == "A mug for hot drinks."


async def test_corrections_and_profile_without_a_usable_critic_are_not_published() -> None:
    model = ScriptedModel(critic=[objections((1, "revise")), "{"], repair=corrections((1, "give")))

    knowledge = await run(model)

    assert values(knowledge) == {"mug", "winter"}
    assert knowledge.profile == ""


@pytest.mark.parametrize("entries", [[(1, "drop"), (1, "revise")], [(1, "revise"), (1, "drop")]])
async def test_of_two_objections_to_one_claim_drop_counts(entries: list[tuple[int, str]]) -> None:
    model = ScriptedModel(critic=[objections(*entries), NEWS], repair=corrections((1, "give")))

    assert (await run(model)).values("needs") == ()
    assert "repair" not in model.called_agents


async def test_failed_repair_drops_the_claim() -> None:
    knowledge = await run(ScriptedModel(critic=[objections((1, "revise")), NEWS], repair="garbage"))

    assert knowledge.values("needs") == ()


async def test_objection_to_unknown_claim_number_is_ignored() -> None:
    assert values(await run(ScriptedModel(critic=objections((77, "drop"), (0, "revise"), (-1, "drop"))))) == {
        "mug",
        "drink",
        "winter",
    }


async def test_rejected_draft_leaves_its_groups_empty() -> None:
    assert values(await run(ScriptedModel(relation="{"))) == {"mug", "drink"}


async def test_rejected_critic_rejects_the_item() -> None:
    with pytest.raises(Rejected, match="critic: malformed_json"):
        await run(ScriptedModel(critic="{"))


async def test_rejected_synthesis_leaves_the_profile_empty() -> None:
    assert (await run(ScriptedModel(synthesis="{"))).profile == ""


@pytest.mark.parametrize("answer", ["{", "I cannot help.", '{"error": "overloaded"}', Completion("{", "truncated"), ""])
async def test_unusable_answer_is_requested_once_more(answer: Any) -> None:
    model = ScriptedModel(demand=[answer, GOOD["demand"]])

    assert values(await run(model)) == {"mug", "drink", "winter"}
    first, again = (request for request in model.requests if request.agent == "demand")
    assert first.fingerprint(MODEL) != again.fingerprint(MODEL)
    assert (first.system, first.user, first.schema) == (again.system, again.user, again.schema)


def test_second_request_corrects_a_malformed_answer_and_leaves_more_room_for_a_truncated_one() -> None:
    request = PIPELINE.agents["demand"].build_request(MUG, 2000, 0)

    corrected = request.ask_again(Completion("no JSON")).body(MODEL)
    longer = request.ask_again(Completion("{", "truncated")).body(MODEL)

    assert [message["role"] for message in corrected["messages"]] == ["system", "user", "assistant", "user"]
    assert corrected["messages"][2]["content"] == "no JSON"
    assert longer["messages"] == request.body(MODEL)["messages"]
    assert longer["max_tokens"] == 3 * request.body(MODEL)["max_tokens"]


@pytest.mark.parametrize("reason", ["truncated", "empty_answer", "refusal", "too_large", "http_400", "no_answer"])
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


def test_schema_puts_reasoning_first_and_enumerates_the_vocabulary() -> None:
    schema = json.loads(PIPELINE.agents["demand"].schema)

    assert list(schema["properties"]) == ["reasoning", "needs"]
    assert schema["properties"]["reasoning"]["maxLength"] == 200
    assert schema["properties"]["needs"]["items"]["properties"]["value"]["enum"] == ["drink", "read", "give"]
    assert (schema["properties"]["needs"]["minItems"], schema["properties"]["needs"]["maxItems"]) == (1, 2)


def find_objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for entry in schema for found in find_objects(entry)]
    if not isinstance(schema, dict):
        return []
    here = [schema] if schema.get("type") == "object" else []
    return here + [found for entry in schema.values() for found in find_objects(entry)]


@pytest.mark.parametrize("version", ["retail-2", "content-1", "giftware-3", "beauty-2"])
def test_schemas_are_valid_in_strict_mode(version: str) -> None:
    """OpenAI's structured outputs: every property required, none other, and at most 1,000 enumerated values."""
    for agent in make_agents(load_vocabulary(version), 500).values():
        schema = json.loads(agent.schema)
        for found in find_objects(schema):
            assert found["required"] == list(found["properties"]) and found["additionalProperties"] is False
        assert "default" not in agent.schema and "$ref" not in agent.schema
        assert agent.schema.count('", "') < 1000


@pytest.mark.parametrize(
    ("answer_format", "sent"), [("json_schema", "json_schema"), ("json_object", "json_object"), ("none", None)]
)
def test_answer_format_is_a_setting(answer_format: Any, sent: str | None) -> None:
    model = replace(MODEL, answer_format=answer_format)

    body = PIPELINE.agents["demand"].build_request(MUG, 2000, 0).body(model)

    assert body.get("response_format", {}).get("type") == sent
    assert (model.identity == MODEL.identity) == (answer_format == "json_schema")


def test_prompts_state_the_limits_for_endpoints_without_a_schema() -> None:
    agents = PIPELINE.agents

    assert all(json.loads(agent.schema)["properties"].keys() for agent in agents.values())
    assert all("at most 200 characters" in agent.system for agent in agents.values())
    assert '{"reasoning":"…","complements":["…"],"substitutes":["…"],"season":[{"value":' in agents["relation"].system
    assert "season (1): When?" in agents["relation"].system


def test_values_without_a_definition_share_a_line() -> None:
    group = Group("colours", "attribute", "Which?", 0, 2, True, {"red": "", "natural": "Of its material.", "blue": ""})
    agent = make_agents(Vocabulary("v-1", (group,)), 200)["attribute"]

    assert "## colours (0 to 2, each with evidence): Which?\n- natural: Of its material.\n- red, blue\n" in agent.system


def test_long_text_is_truncated() -> None:
    long = Content.from_listing("t" * 1000, {f"a{number}": "x" * 1000 for number in range(32)})

    request = PIPELINE.agents["demand"].build_request(long, 1500, 0)

    item = json.loads(request.user)["item"]
    assert len(item["title"]) + sum(len(name) + len(value) for name, value in item["attributes"].items()) <= 1500
