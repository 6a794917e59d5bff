"""Behavior inference: which items it may infer, and that results do not depend on batches or order of arrival."""

import numpy as np
import pytest
import torch

from reaseq.behavior import calibration
from reaseq.behavior.backbone import BackboneConfig
from reaseq.behavior.diffusion import Draw
from reaseq.behavior.history import InferenceRequest
from reaseq.behavior.inference import BehaviorInference, merge
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.records import History
from reaseq.representation.item_table import ItemTable
from reaseq.representation.semantic_ids import fit
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import SamplerSettings
from tests.fakes.catalog import CATALOG, DIM, ITEMS, NOW_MS, VOCABULARY, build_table, item, request

CODEBOOK = fit(CATALOG.snapshot.vectors[1:].numpy(), "s", levels=2, codes=8)
VARIANTS = {
    "items": SamplerSettings(behaviors=6),
    "items, several steps": SamplerSettings(behaviors=6, steps=3, tolerance=0.05),
    "items, infilled": SamplerSettings(behaviors=6, infilled_behaviors=2, steps=2),
    "items, sampled": SamplerSettings(behaviors=6, samples=3, temperature=0.5),
    "codes": SamplerSettings(behaviors=6, steps=2),
}


def inference(table: ItemTable, variant: str = "items", **changes: int) -> BehaviorInference:
    torch.manual_seed(0)
    ids = TrainedIds([f"i{number}" for number in range(ITEMS - 50)])
    codebook = CODEBOOK if variant == "codes" else None
    config = BehaviorConfig(
        vector_dim=DIM,
        claims=VOCABULARY.size,
        items=len(ids),
        history=12,
        codes=codebook.sizes if codebook else (),
        backbone=BackboneConfig(width=32, feed=48),
    )
    settings = VARIANTS[variant].model_copy(update=changes)
    return BehaviorInference(BehaviorModel(config).eval(), ids, "v1", table, settings, codebook)


@pytest.mark.parametrize("variant", ["items", "items, several steps", "items, sampled", "codes"])
def test_infers_items_on_sale_that_are_not_in_the_log(variant: str) -> None:
    table = build_table(
        *(item(number) for number in range(40)),
        item(40, status="delisted"),
        item(41, listed_ms=NOW_MS + 1),
    )
    due = InferenceRequest(History(item_ids=("i1", "i2"), types=(4, 4), times_ms=(1, 2), event_keys=(1, 2)), NOW_MS, 2)

    (answer,) = inference(table, variant, behaviors=60, samples=1).infer([due])

    assert set(answer.item_ids) <= {f"i{number}" for number in range(40)} - {"i1", "i2"}
    assert len(set(answer.item_ids)) == len(answer.item_ids) >= 30
    assert list(answer.confidences) == sorted(answer.confidences, reverse=True)
    assert (answer.model, answer.as_of_ms, answer.events_seen) == ("v1", NOW_MS, 2)


def test_empty_catalog_infers_nothing() -> None:
    (answer,) = inference(build_table()).infer([request(1)])

    assert answer.item_ids == ()


@pytest.mark.parametrize("variant", VARIANTS)
def test_result_does_not_depend_on_the_batch(variant: str) -> None:
    model = inference(CATALOG, variant)
    requests = [request(seed) for seed in range(3 * SamplerSettings().batch_users + 1)]

    alone = [model.infer([one])[0] for one in requests]

    assert model.infer(requests) == alone
    assert model.infer(requests[::-1])[::-1] == alone


def test_result_does_not_depend_on_the_order_of_the_catalog() -> None:
    shuffled = [item(int(number)) for number in np.random.default_rng(1).permutation(ITEMS)]

    assert inference(build_table(*shuffled)).infer([request(7)]) == inference(CATALOG).infer([request(7)])


def test_untrained_item_can_be_inferred_on_its_first_day() -> None:
    table = build_table(*(item(number) for number in range(ITEMS)), item(999, listed_ms=NOW_MS))

    (answer,) = inference(table, behaviors=ITEMS).infer([request(3)])

    assert "i999" in answer.item_ids


def test_merge_averages_probabilities_over_samples() -> None:
    zeros = torch.zeros(1, 2, dtype=torch.long)
    draws = [
        Draw(torch.tensor([[7, 8]]), torch.tensor([[0.6, 0.2]]), zeros, torch.zeros(1, 1), zeros[:, 0]),
        Draw(torch.tensor([[8, 9]]), torch.tensor([[0.5, 0.3]]), zeros, torch.zeros(1, 1), zeros[:, 0]),
    ]

    rows, p = merge(draws, 3)

    assert rows.tolist() == [[8, 7, 9]]
    assert p[0].tolist() == pytest.approx([0.35, 0.3, 0.15])


def test_calibrated_confidence_is_the_share_that_comes_true() -> None:
    torch.manual_seed(0)
    stated = torch.rand(20_000) * 0.5
    came_true = torch.rand(20_000) < stated / 4  # overconfident by a factor of four

    line = calibration.fit(stated, came_true)

    before, after = (calibration.expected_error(p, came_true) for p in (stated, calibration.apply(line, stated)))
    assert before > 0.15 and after < 0.01
    assert calibration.apply(line, torch.zeros(1)).tolist() == [0.0]


@pytest.mark.parametrize("hits", [0, 1, 40])
def test_calibration_on_few_observations_stays_moderate(hits: int) -> None:
    stated = torch.linspace(0.001, 0.3, 40)

    line = calibration.fit(stated, torch.arange(40) >= 40 - hits)

    calibrated = calibration.apply(line, stated)
    assert 1e-4 < float(calibrated.min()) and float(calibrated.max()) < 0.999
