"""The exported forward pass gives the probabilities of the eager model, for every configuration and any sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reaseq.declaration import Category, Declaration, Flag, Number, Tags
from reaseq.ranker.engine import Engine, ScoringQuery
from reaseq.ranker.explain import explain
from reaseq.ranker.latent import SCORES, LatentModels
from reaseq.ranker.model import Ranker, RankerConfig
from reaseq.ranker.onnx_forward import OnnxForward, export
from reaseq.records import History, Inferred, ItemFeatures, UserFeatures
from reaseq.representation.item_table import ItemTable
from reaseq.representation.trained_ids import TrainedIds
from tests.fakes.catalog import DIM, NOW_MS, VOCABULARY, item, request
from tests.fakes.ranker import IDS, STATISTICS, aggregates

DECLARED = Declaration(
    item_attributes=[Category("brand", buckets=8), Number("grams"), Tags("tags", buckets=8, limit=3), Flag("new")]
)
CONFIGS = {
    "everything": RankerConfig(DIM, VOCABULARY.size, len(IDS), scores=SCORES, attributes=DECLARED.item_fields),
    "without attributes": RankerConfig(DIM, VOCABULARY.size, len(IDS), scores=SCORES),
    "without inferred behaviors": RankerConfig(DIM, VOCABULARY.size, len(IDS), inferred=0),
    "without claims": RankerConfig(DIM, 1, len(IDS)),
    "without vectors": RankerConfig(0, VOCABULARY.size, len(IDS)),
    "by id alone": RankerConfig(0, 1, len(IDS), inferred=0),
    "without ids": RankerConfig(DIM, VOCABULARY.size),
    "attributes alone": RankerConfig(0, 1, 1, inferred=0, attributes=DECLARED.item_fields),
    "search": RankerConfig(DIM, VOCABULARY.size, len(IDS), search=3),
    "without own items and price": RankerConfig(DIM, VOCABULARY.size, len(IDS), own_items=False, price=False),
}


def random_model(config: RankerConfig) -> Ranker:
    """A ranker with every weight and every statistic of the catalog random, so that each of them moves the probabilities."""
    generator = torch.Generator().manual_seed(0)
    model = Ranker(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2, generator=generator)
        for rates in (model.claim_rates, *([model.code_rates] if config.codes > 1 else [])):
            rates.uniform_(0, 0.2, generator=generator)
        model.number_encoding.edges.uniform_(-2, 5, generator=generator).copy_(model.number_encoding.edges.sort(-1).values)
        model.calibration.copy_(torch.tensor([0.7, -0.4]))
    return model


def random_item(number: int) -> ItemFeatures:
    attributes = {"brand": f"b{number % 5}", "tags": f"t{number % 3}, t{number % 4}", "grams": f"{number}", "new": "yes"}
    return item(number, price=number / 7 if number % 3 else None, attributes=attributes if number % 4 else {})


def build_table(items: int) -> ItemTable:
    table = ItemTable(VOCABULARY, "s", DIM, declaration=DECLARED)
    assert not table.apply([random_item(number) for number in range(items)])
    return table


def user(seed: int) -> UserFeatures:
    inferred = Inferred(item_ids=("i5", f"i{seed}", "nobody"), confidences=(0.4, 0.1, 0.3))
    return UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=request(seed).history, inferred=inferred)


def engines(config: RankerConfig, table: ItemTable, latents: LatentModels) -> tuple[Engine, Engine]:
    """The same ranker, eager and exported."""
    model, ids = random_model(config), IDS if config.items > 1 else TrainedIds([])
    eager, exported = (
        Engine(model, ids, "v", table, aggregates(), latents, STATISTICS, onnx) for onnx in (None, OnnxForward(export(model)))
    )
    return eager, exported


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_exported_model_gives_the_probabilities_of_the_eager_one(config: RankerConfig) -> None:
    without_history = UserFeatures(user_id="u", event_time_ms=1, events_seen=0, history=History())
    everyone = [None, without_history, *(user(seed) for seed in range(1, 30, 7))]
    table = build_table(120)
    eager, exported = engines(config, table, LatentModels(Path()))
    snapshot, generator = table.snapshot, torch.Generator().manual_seed(1)
    first = 1 if config.search else 0  # an unknown item is equally similar to all behaviors: any of them may be searched
    for users in (everyone, *([one] for one in everyone)):
        for count in (1, 2, 57):
            rows = [torch.randint(first, len(snapshot), (max(1, count - at),), generator=generator) for at in range(len(users))]
            queries = [ScoringQuery(one, of, NOW_MS) for one, of in zip(users, rows, strict=True)]
            for expected, result in zip(eager.score_all(queries, snapshot), exported.score_all(queries, snapshot), strict=True):
                assert np.allclose(result.probabilities, expected.probabilities, rtol=0, atol=1e-6)
                assert count < 57 or np.ptp(expected.probabilities) > 1e-3


def test_exported_model_reads_a_table_that_has_grown() -> None:
    table = build_table(10)
    eager, exported = engines(CONFIGS["everything"], table, LatentModels(Path()))
    exported.score(user(8), ["i1"], NOW_MS)

    assert not table.apply([random_item(number) for number in range(10, 40)])

    scores = exported.score(user(8), ["i1", "i35"], NOW_MS)
    assert np.allclose(scores, eager.score(user(8), ["i1", "i35"], NOW_MS), rtol=0, atol=1e-6)
    assert scores[1] != exported.score(user(8), ["nobody"], NOW_MS)[0]


def test_explanations_are_those_of_the_eager_model_hidden_categories_among_them() -> None:
    eager, exported = engines(CONFIGS["everything"], build_table(40), LatentModels(Path()))

    (expected,), (explained,) = (explain(engine, user(8), ["i7"], NOW_MS) for engine in (eager, exported))

    assert explained.groups == pytest.approx(expected.groups, abs=1e-5)
    assert all(explained.groups[f"attribute {name}"] for name in ("brand", "tags", "new"))
