"""Training of the behavior model: it learns, resumes after a stop, and runs on several processes."""

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
SIZES = BehaviorConfig(
    vector_dim=DIM, claims=VOCABULARY.size, history=6, response=4, backbone=BackboneConfig(width=32, layers=1, feed=48)
)
CONFIG = BehaviorTrainingConfig(epochs=3, batch_baskets=16)


def baskets(count: int = 200) -> list[Basket]:
    """Users who buy item n, then n + 1: a rule that can be learned."""
    generator = np.random.default_rng(0)
    baskets = []
    for number in range(count):
        first = int(generator.integers(0, 20))
        time_ms = NOW_MS - (count - number) * DAY_MS // 10
        history = History(item_ids=(f"i{first}",), types=(4,), times_ms=(time_ms - DAY_MS,), event_keys=(number,))
        baskets.append(Basket(f"u{number}", time_ms, (f"i{first + 1}", f"i{first}"), history))
    return baskets


def data(**changes: object) -> tuple[BehaviorTrainingData, BehaviorConfig]:
    """Training data, and the sizes of a model for it."""
    sizes = replace(SIZES, **changes)  # type: ignore[arg-type]
    trie = None
    if sizes.codes:
        generator = torch.Generator().manual_seed(0)
        codes = torch.stack([torch.randint(size, (len(TABLE),), generator=generator) for size in sizes.codes], dim=1)
        trie = SemanticIdTrie.from_codes(codes, sizes.codes)
    training_data, ids = build_training_data(baskets(), TABLE, sizes, 0.1, trie)
    return training_data, replace(sizes, items=len(ids))


def test_training_data_excludes_repeated_items_and_holds_out_the_latest_baskets() -> None:
    training_data, _ = data()

    assert len(training_data.train) == 180 and len(training_data.held_out) == 20
    assert int(training_data.train.times_ms.max()) < int(training_data.held_out.times_ms.min())
    assert (training_data.train.response >= 0).sum(-1).tolist() == [1] * 180
    assert not trainable(
        [replace(baskets()[0], item_ids=("i0",), history=History(item_ids=("i0",), types=(4,), times_ms=(0,), event_keys=(0,)))]
    )


@pytest.mark.parametrize(("codes", "to_share"), [((), 0.75), ((4, 8), 0.985)])  # random codes reveal little
def test_training_lowers_the_held_out_loss(codes: tuple[int, ...], to_share: float) -> None:
    training_data, sizes = data(codes=codes)

    model, curve = training.train(training_data, sizes, replace(CONFIG, epochs=10, learning_rate=0.01))

    assert curve.held_out[-1] < to_share * curve.held_out[0]
    assert not torch.equal(model.calibration, torch.tensor([1.0, 0.0]))
    assert float(model.sales.sum()) > 100


def test_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    training_data, sizes = data()
    uninterrupted, curve = training.train(training_data, sizes, CONFIG)

    class Stopped(Exception):
        pass

    steps = 0

    def stop_in_the_second_epoch(count: int, loss: float) -> None:
        nonlocal steps
        steps += count
        if steps == 20:
            raise Stopped

    with pytest.raises(Stopped):
        training.train(training_data, sizes, CONFIG, tmp_path / "checkpoint", stop_in_the_second_epoch)
    counts: list[int] = []
    checkpoint = tmp_path / "checkpoint"
    resumed, resumed_curve = training.train(training_data, sizes, CONFIG, checkpoint, lambda count, loss: counts.append(count))

    assert counts[0] == 12 and sum(counts) == len(curve.train) == 36
    assert resumed_curve == curve
    for name, tensor in uninterrupted.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_model_depends_only_on_the_seed() -> None:
    training_data, sizes = data()

    one, same, other = (training.train(training_data, sizes, replace(CONFIG, epochs=1, seed=seed))[0] for seed in (1, 1, 2))

    assert torch.equal(one.masks, same.masks) and not torch.equal(one.masks, other.masks)


@pytest.mark.slow
def test_processes_under_torchrun_train_one_model(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import json, sys, torch\n"
        "from reaseq.behavior import training\n"
        "from reaseq.training_loop import join_processes\n"
        "from tests.unit.reaseq.behavior.test_training import CONFIG, data\n"
        "rank = join_processes()\n"
        "model, curve = training.train(*data(), CONFIG)\n"
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
    _, single = training.train(*data(), CONFIG)

    (total, held_out), (other, _) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert total == pytest.approx(other, rel=1e-9)
    assert held_out[-1] == pytest.approx(single.held_out[-1], rel=0.1)


def test_recent_sales_exclude_the_current_day() -> None:
    training_data, _ = data()
    day = NOW_MS - 5 * DAY_MS
    counts = training_data.sales.counts(torch.tensor([day + 5]))[0]

    sold = [item_id for basket in baskets() if day - 30 * DAY_MS <= basket.time_ms < day for item_id in basket.item_ids]
    assert int(counts.sum()) == len(sold)
    assert int(counts[TABLE.index["i3"]]) == sold.count("i3")


def test_model_is_not_calibrated_without_held_out_baskets() -> None:
    training_data, ids = build_training_data(baskets(40), TABLE, SIZES)

    model, curve = training.train(training_data, replace(SIZES, items=len(ids)), replace(CONFIG, epochs=1))

    assert torch.equal(model.calibration, torch.tensor([1.0, 0.0])) and math.isnan(curve.held_out[0])
    assert isinstance(model, BehaviorModel)


def test_pairs_join_an_earlier_item_with_a_new_one() -> None:
    pairs = build_pairs(baskets(50), TABLE, seed=0)

    names = [(TABLE.ids[left], TABLE.ids[right]) for left, right in pairs.tolist()]
    assert len(names) == 50
    assert all(int(right[1:]) == int(left[1:]) + 1 for left, right in names)


def test_log_without_returning_users_is_rejected() -> None:
    first_visits = [replace(basket, history=History()) for basket in baskets(20)]

    with pytest.raises(CatalogError, match="none of the 18 training baskets has both a history and a new item"):
        build_training_data(first_visits, TABLE, SIZES, 0.1)
