"""A capable model's recorded conversation through the agents: what is accepted, dropped and repaired, and what it costs."""

from collections import Counter

import pytest
from prometheus_client import REGISTRY

from reaseq.knowledge.agents.agent_pipeline import AgentPipeline
from reaseq.knowledge.agents.prompts import make_agents
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import ProductKnowledge
from tests.fakes.recorded_conversation import VOCABULARIES, RecordedModel

# Input tokens per item, at 4 characters each, with the prompts of November 2026, whose critic read the whole vocabulary.
TOKENS_BEFORE = {"online_retail": 10_642, "amazon_beauty": 8_790}


async def replay(catalog: str) -> tuple[RecordedModel, list[ProductKnowledge], Counter[str]]:
    """The model after its calls, the knowledge about each item, and the dropped claims by reason."""
    vocabulary, model = load_vocabulary(VOCABULARIES[catalog]), RecordedModel(catalog)
    pipeline = AgentPipeline(make_agents(vocabulary, 500), vocabulary, "llm:stand-in", 4000)
    before = count_dropped()
    knowledge = [await pipeline.run(content, model) for content in model.contents]
    return model, knowledge, count_dropped() - before


def count_dropped() -> Counter[str]:
    dropped: Counter[str] = Counter()
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name == "reaseq_claims_dropped_total":
                dropped[sample.labels["reason"]] += int(sample.value)
    return dropped


@pytest.mark.parametrize(
    ("catalog", "items", "claims", "dropped"),
    [
        ("online_retail", 18, 318, {"critic_drop": 12, "critic_revise": 3}),
        ("amazon_beauty", 9, 157, {"critic_drop": 6}),
    ],
)
async def test_claims_of_a_capable_model_are_accepted_except_those_that_its_critic_objects_to(
    catalog: str, items: int, claims: int, dropped: dict[str, int]
) -> None:
    _, knowledge, counts = await replay(catalog)

    assert len(knowledge) == items
    assert sum(len(answer.claims) for answer in knowledge) == claims
    assert +counts == dropped
    assert all(answer.profile and answer.product_type and answer.complements for answer in knowledge)


async def test_objected_claims_are_repaired() -> None:
    model, knowledge, _ = await replay("online_retail")

    by_title = {content.title: answer for content, answer in zip(model.contents, knowledge, strict=True)}
    cabinet, tag = by_title["KEY CABINET MA CAMPAGNE"], by_title["PINK UNION JACK LUGGAGE TAG"]
    assert (cabinet.values("category"), cabinet.values("tier")) == (("shelves_and_hooks",), ("everyday",))
    assert tag.values("season") == ("all_year",)
    assert model.calls == {"demand": 18, "attribute": 18, "relation": 18, "critic": 36, "repair": 2, "synthesis": 18}


@pytest.mark.parametrize("catalog", VOCABULARIES)
async def test_item_costs_at_most_6000_input_tokens(catalog: str) -> None:
    model, _, _ = await replay(catalog)

    assert model.tokens_in_per_item <= 6000 < TOKENS_BEFORE[catalog]
