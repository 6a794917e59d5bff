"""Declared attributes in the ranker: it learns from them, explains them, and does without those that changed."""

import math

import numpy as np
import pytest
import torch

from reaseq.aggregates import BUILT_IN, EventLog, LoggedAggregates
from reaseq.behavior.examples import Basket
from reaseq.days import DAY_MS
from reaseq.declaration import Attribute, Category, Declaration, Flag, Number, Tags
from reaseq.ranker.explain import explain
from reaseq.ranker.importance import permutation_losses
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.training import (
    RankerExamples,
    RankerLossModule,
    RankerSample,
    RankerTrainingConfig,
    build_examples,
    score,
    train,
)
from reaseq.records import History, Inferred
from reaseq.representation.item_table import ItemTable, Snapshot
from reaseq.representation.trained_ids import TrainedIds
from tests.fakes.catalog import DIM, NOW_MS, VOCABULARY, item
from tests.fakes.ranker import USER, engine

ITEMS = 120
BRAND, WEIGHT = Category("brand", buckets=64), Number("weight_g")
DECLARED = Declaration(item_attributes=[BRAND, Flag("organic"), Tags("tags", buckets=16, limit=3), WEIGHT])
IDS = [f"i{number}" for number in range(ITEMS)]


def build_table(declaration: Declaration, without: str = "", only: int | None = None) -> ItemTable:
    """Items with every attribute but `without`, which all of them lack, or `only` that item."""
    table = ItemTable(VOCABULARY, "s", DIM, declaration=declaration)
    for number in range(ITEMS):
        attributes = {"brand": f"b{number % 6}", "organic": "yes", "tags": f"t{number % 3}, all", "weight_g": str(number)}
        if only in (None, number):
            attributes.pop(without, None)
        assert not table.apply([item(number, attributes=attributes)])
    return table


def scores(table: ItemTable, *attributes: Attribute) -> np.ndarray:
    """Scores of all items by a random ranker that reads these attributes."""
    fields = tuple(attribute.field for attribute in attributes)
    return engine(table, attributes=fields).score(USER, IDS, NOW_MS)  # type: ignore[arg-type]


@pytest.mark.parametrize("attribute", DECLARED.item_attributes)
def test_score_depends_on_each_attribute(attribute: Attribute) -> None:
    every, without = build_table(DECLARED), build_table(DECLARED, without=attribute.name)

    assert not np.allclose(scores(every, *DECLARED.item_attributes), scores(without, *DECLARED.item_attributes))
    others = [other for other in DECLARED.item_attributes if other != attribute]
    assert np.allclose(scores(every, *others), scores(without, *others))


def test_ranker_reads_its_own_attributes_in_any_declaration_that_still_has_them() -> None:
    moved = Declaration(item_attributes=[Number("new"), WEIGHT, Category("other"), BRAND])

    assert np.allclose(scores(build_table(DECLARED), BRAND, WEIGHT), scores(build_table(moved), BRAND, WEIGHT))


@pytest.mark.parametrize("changed", [Category("brand", buckets=32), Category("brand", values=["b0", "b1"]), Number("brand")])
def test_attribute_that_is_gone_or_encoded_otherwise_counts_as_missing(changed: Attribute) -> None:
    table = build_table(Declaration(item_attributes=[changed, WEIGHT]))
    expected = scores(build_table(DECLARED, without="brand"), BRAND, WEIGHT)

    assert np.allclose(scores(table, BRAND, WEIGHT), expected)
    assert np.allclose(scores(build_table(Declaration(item_attributes=[WEIGHT])), BRAND, WEIGHT), expected)


def test_item_stored_before_the_declaration_is_ranked_without_the_attribute() -> None:
    table = ItemTable(VOCABULARY, "s", DIM, declaration=Declaration(item_attributes=[Number("weight_g", required=True)]))

    assert not table.apply([item(0)])
    assert np.isfinite(engine(table, attributes=(WEIGHT.field,)).score(USER, ["i0"], NOW_MS)).all()  # type: ignore[arg-type]


def test_replaced_item_has_the_new_attributes_although_the_table_grew_and_was_compacted() -> None:
    table = build_table(DECLARED)
    for time_ms in range(2, 8):
        table.apply([item(number, event_time_ms=time_ms, attributes={"weight_g": str(-number)}) for number in range(ITEMS)])
    snapshot = table.snapshot
    attributes = snapshot.contents.attributes[snapshot.slots[snapshot.rows(["i7", "i8"])]]

    assert snapshot.generation and attributes.numbers[:, 1].tolist() == [-7, -8]
    assert (attributes.codes == 0).all() and attributes.numbers[:, 0].isnan().all()


def test_explanation_names_each_attribute_and_what_the_score_loses_without_it() -> None:
    fields = DECLARED.item_fields
    candidate = next(row for row in range(ITEMS) if f"i{row}" not in {*USER.history.item_ids, *USER.inferred.item_ids})
    (explained,) = explain(engine(build_table(DECLARED), attributes=fields), USER, [f"i{candidate}"], NOW_MS)  # type: ignore[arg-type]

    for attribute in DECLARED.item_attributes:
        without = build_table(DECLARED, without=attribute.name, only=candidate)
        (other,) = explain(engine(without, attributes=fields), USER, [f"i{candidate}"], NOW_MS)  # type: ignore[arg-type]
        loss = _log_odds(explained.probability) - _log_odds(other.probability)
        assert explained.groups[f"attribute {attribute.name}"] == pytest.approx(loss, abs=1e-3)
        assert abs(loss) > 1e-4


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_ranker_learns_a_brand_that_nothing_else_tells_and_its_importance_says_so() -> None:
    """Everyone buys what has the brand of the behaviors; vectors and ids are noise."""
    table = build_table(DECLARED).snapshot.by_id()
    generator = np.random.default_rng(0)
    samples = []
    for number in range(240):
        brand = number % 6
        own = generator.choice(np.arange(brand, ITEMS, 6), 8, replace=False)
        times = tuple(NOW_MS + number * DAY_MS - back * DAY_MS for back in range(5, 0, -1))
        history = History(
            item_ids=tuple(f"i{row}" for row in own[:5]), types=(4,) * 5, times_ms=times, event_keys=(1, 2, 3, 4, 5)
        )
        basket = Basket(f"u{number}", NOW_MS + number * DAY_MS, tuple(f"i{row}" for row in own[5:]), history)
        samples.append(RankerSample(basket, Inferred()))

    sizes = RankerConfig(vector_dim=DIM, claims=1, width=16, history=8, inferred=0, attributes=DECLARED.item_fields)
    config = RankerTrainingConfig(
        epochs=4, batch_baskets=8, positives=3, uniform_negatives=20, popular_negatives=2, own_negatives=2, learning_rate=1e-2
    )
    ids = TrainedIds([])
    no_events = LoggedAggregates(BUILT_IN, EventLog.of_purchases([], []), np.zeros(0, np.int64))
    built = build_examples(samples, no_events, table, LatentModels.__new__(LatentModels), sizes, config)
    model, _ = train(built[:200], built[200:], table, ids, sizes, config)

    def auc(examples: RankerExamples, snapshot: Snapshot) -> float:
        found = score(RankerLossModule(model, examples, snapshot, ids, torch.device("cpu")), examples)
        return float((found[:, :3].unsqueeze(2) > found[:, 3:23].unsqueeze(1)).float().mean())

    losses = permutation_losses(auc, built[200:], table, sizes.attribute_columns)
    assert auc(built[200:], table) > 0.85  # at most 11/12, because one negative in six has the brand, too
    assert losses["brand"] > 0.3 and max(losses, key=lambda name: losses[name]) == "brand"
    assert set(losses) == {"brand", "organic", "tags", "weight_g"}
