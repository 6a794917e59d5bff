"""Training of the behavior model: it learns, goes on where it was stopped, and splits over processes."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reaseq.behavior import training
from reaseq.behavior.backbone import BackboneConfig
from reaseq.behavior.examples import Basket, build_pairs, trainable
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.token_table import SemanticIdTrie
from reaseq.behavior.training import BehaviorTrainingConfig, BehaviorTrainingData, build_training_data
from reaseq.days import DAY_MS
from reaseq.errors import CatalogError
from reaseq.records import History
from tests.fakes.catalog import CATALOG, DIM, NOW_MS, VOCABULARY

TABLE = CATALOG.snapshot.by_id()
CONFIG = BehaviorConfig(
    vector_dim=DIM, claims=VOCABULARY.size, history=6, response=4, backbone=BackboneConfig(width=32, layers=1, feed=48)
)
PLAN = BehaviorTrainingConfig(epochs=3, batch_baskets=16)


def baskets(count: int = 200) -> list[Basket]:
    """Users who bought item n and then n + 1: a rule that can be learned."""
    generator = np.random.default_rng(0)
    found = []
    for place in range(count):
        first = int(generator.integers(0, 20))
        time_ms = NOW_MS - (count - place) * DAY_MS // 10
        history = History(item_ids=(f"i{first}",), types=(4,), times_ms=(time_ms - DAY_MS,), event_keys=(place,))
        found.append(Basket(f"u{place}", time_ms, (f"i{first + 1}", f"i{first}"), history))
    return found


def data(**changes: object) -> tuple[BehaviorTrainingData, BehaviorConfig]:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    tree = None
    if config.codes:
        generator = torch.Generator().manual_seed(0)
        codes = torch.stack([torch.randint(size, (len(TABLE),), generator=generator) for size in config.codes], dim=1)
        tree = SemanticIdTrie.from_codes(codes, config.codes)
    found, ids = build_training_data(baskets(), TABLE, config, 0.1, tree)
    return found, replace(config, items=len(ids))


def test_what_a_basket_repeats_is_not_learned_and_the_latest_are_held_out() -> None:
    found, _ = data()

    assert len(found.train) == 180 and len(found.held_out) == 20
    assert int(found.train.times_ms.max()) < int(found.held_out.times_ms.min())
    assert (found.train.response >= 0).sum(-1).tolist() == [1] * 180
    assert not trainable([replace(baskets()[0], item_ids=("i0",), history=History(item_ids=("i0",)))])


@pytest.mark.parametrize(("codes", "to_share"), [((), 0.75), ((4, 8), 0.985)])  # a random code tells little
def test_training_lowers_the_held_out_loss(codes: tuple[int, ...], to_share: float) -> None:
    found, config = data(codes=codes)

    model, curve = training.train(found, config, replace(PLAN, epochs=10, learning_rate=0.01))

    assert curve.held_out[-1] < to_share * curve.held_out[0]
    assert not torch.equal(model.calibration, torch.tensor([1.0, 0.0]))
    assert float(model.sales.sum()) > 100


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    found, config = data()
    whole, curve = training.train(found, config, PLAN)

    class Stopped(Exception):
        pass

    steps = 0

    def stop_in_the_second_epoch(count: int, loss: float) -> None:
        nonlocal steps
        steps += count
        if steps == 20:
            raise Stopped

    with pytest.raises(Stopped):
        training.train(found, config, PLAN, tmp_path / "checkpoint", stop_in_the_second_epoch)
    heard: list[int] = []
    resumed, again = training.train(found, config, PLAN, tmp_path / "checkpoint", lambda count, loss: heard.append(count))

    assert heard[0] == 12 and sum(heard) == len(curve.train) == 36
    assert again == curve
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    found, config = data()

    one, same, other = (training.train(found, config, replace(PLAN, epochs=1, seed=seed))[0] for seed in (1, 1, 2))

    assert torch.equal(one.masks, same.masks) and not torch.equal(one.masks, other.masks)


@pytest.mark.slow
def test_processes_under_torchrun_end_with_one_model_that_learned_as_a_single_one_does(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import json, sys, torch\n"
        "from reaseq.behavior import training\n"
        "from reaseq.training_loop import join_processes\n"
        "from tests.unit.reaseq.behavior.test_training import PLAN, data\n"
        "rank = join_processes()\n"
        "found, config = data()\n"
        "model, curve = training.train(found, config, PLAN)\n"
        "total = float(sum(p.double().abs().sum() for p in model.parameters()))\n"
        "open(sys.argv[1] + f'/{rank}.json', 'w').write(json.dumps([total, curve.held_out]))\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        str(tmp_path),
    ]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}, timeout=240)
    found, config = data()
    _, alone = training.train(found, config, PLAN)

    (total, held_out), (other, _) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert total == pytest.approx(other, rel=1e-9)
    assert held_out[-1] == pytest.approx(alone.held_out[-1], rel=0.1)


def test_recent_sales_end_before_the_day_they_are_asked_for() -> None:
    found, _ = data()
    day = NOW_MS - 5 * DAY_MS
    counted = found.sales.counts(torch.tensor([day + 5]))[0]

    sold = [i for basket in baskets() if day - 30 * DAY_MS <= basket.time_ms < day for i in basket.item_ids]
    assert int(counted.sum()) == len(sold)
    assert int(counted[TABLE.index["i3"]]) == sold.count("i3")


def test_without_held_out_baskets_nothing_is_calibrated() -> None:
    found, ids = build_training_data(baskets(40), TABLE, CONFIG)

    model, curve = training.train(found, replace(CONFIG, items=len(ids)), replace(PLAN, epochs=1))

    assert torch.equal(model.calibration, torch.tensor([1.0, 0.0])) and math.isnan(curve.held_out[0])
    assert isinstance(model, BehaviorModel)


def test_pairs_join_what_a_user_had_with_what_came_new() -> None:
    pairs = build_pairs(baskets(50), TABLE, seed=0)

    names = [(TABLE.ids[left], TABLE.ids[right]) for left, right in pairs.tolist()]
    assert len(names) == 50
    assert all(int(right[1:]) == int(left[1:]) + 1 for left, right in names)


def test_a_log_in_which_nobody_comes_back_is_refused_by_name() -> None:
    first_visits = [replace(basket, history=History()) for basket in baskets(20)]

    with pytest.raises(CatalogError, match="of 18 baskets to learn from, none has a history"):
        build_training_data(first_visits, TABLE, CONFIG, 0.1)
