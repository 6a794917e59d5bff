"""Inferred behaviors, and the commands for behaviors and representation, on the state of a finished demo."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from demo import ORDER_LINES
from demo.schedule import QUICK
from evaluation.datasets.online_retail import read_retail
from features.array_codec import unpack_inferred
from features.definitions import user_inferred
from features.historical import baskets_in_archive, users_before
from features.repository import FeatureRepository
from pipelines.catalog import load_item_table
from reaseq.aggregates import BUILT_IN, EventLog, LoggedAggregates
from reaseq.behavior.examples import build_examples, build_pairs
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.training import RankerSample, RankerTrainingConfig
from reaseq.ranker.training import build_examples as build_ranker_examples
from reaseq.settings import BehaviorSettings, Settings
from tests.acceptance.demo_state import make_copy
from tests.commands import reaseq

pytestmark = pytest.mark.slow

END_MS = 2**53


@pytest.fixture(scope="module")
def state(quick_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_copy(quick_demo, tmp_path_factory.mktemp("trained") / "state")


@pytest.fixture(scope="module")
def repository(state: Path) -> FeatureRepository:
    """The feature store and the archive of that state."""
    return FeatureRepository(Settings(state_dir=state))


def read_log() -> dict[str, set[tuple[int, str]]]:
    """Each user's logged behaviors: (time, item)."""
    behaviors: dict[str, set[tuple[int, str]]] = defaultdict(set)
    for order in read_retail(ORDER_LINES, QUICK.customers_share, QUICK.start_ms).orders:
        behaviors[order.user_id] |= {(order.time_ms, item_id) for item_id in order.item_ids}
    return behaviors


def test_inferred_behaviors_carry_provenance_and_are_not_in_the_log(state: Path) -> None:
    log, inferred = read_log(), 0
    rows = pq.read_table(state / "archive" / user_inferred.name).to_pylist()
    for row in rows:
        item_ids, confidences = unpack_inferred(row["inferred"])
        if not item_ids:
            continue
        inferred += len(item_ids)
        assert row["model"] and 0 < row["as_of_ms"] <= row["event_timestamp"].timestamp() * 1000 and row["events_seen"] > 0
        assert all(0 < p <= 1 for p in confidences)
        by_then = sorted(behavior for behavior in log[row["user_id"]] if behavior[0] <= row["as_of_ms"])
        if (
            len(by_then) <= BehaviorSettings().history_limit_events
        ):  # longer histories are cut, and what was cut may be inferred
            assert not set(item_ids) & {item_id for _, item_id in by_then}
    assert inferred > 1000


def test_inferred_behaviors_never_enter_training_as_real_ones(repository: FeatureRepository) -> None:
    log = read_log()
    baskets = baskets_in_archive(repository, END_MS)
    archived = [(basket.user_id, basket.time_ms, item_id) for basket in baskets for item_id in basket.item_ids]
    logged = {(user_id, time_ms, item_id) for user_id, behaviors in log.items() for time_ms, item_id in behaviors}
    assert len(archived) == len(set(archived)) and logged == set(archived)

    table = load_item_table(repository).snapshot
    known = users_before(repository, [b.user_id for b in baskets], [b.time_ms for b in baskets])
    only_inferred = 0
    for basket, (history, inferred) in zip(baskets, known, strict=True):
        before = {item_id for time_ms, item_id in log[basket.user_id] if time_ms < basket.time_ms}
        assert set(basket.history.item_ids) == set(history.item_ids) <= before
        only_inferred += len(set(inferred.item_ids) - {item_id for _, item_id in log[basket.user_id]})
    assert only_inferred > 100  # there are inferred behaviors to leak

    examples = build_examples(baskets, table, history=128, response=64)
    for basket, history_rows, response_rows in zip(
        baskets, examples.history.rows.tolist(), examples.response.tolist(), strict=True
    ):
        assert {table.ids[row] for row in history_rows if row} <= set(basket.history.item_ids)
        assert {table.ids[row] for row in response_rows if row >= 0} <= set(basket.item_ids)
    latest = slice(-50, None)
    samples = [RankerSample(basket, inferred) for basket, (_, inferred) in zip(baskets[latest], known[latest], strict=True)]
    no_events = LoggedAggregates(BUILT_IN, EventLog.of_purchases([], []), np.zeros(0, np.int64))
    ranked = build_ranker_examples(samples, no_events, table, LatentModels(Path()), RankerConfig(), RankerTrainingConfig())
    candidates, positives = ranked.batch.candidates.tolist(), ranked.positives.tolist()
    for basket, rows, is_positive in zip(baskets[latest], candidates, positives, strict=True):
        assert {table.ids[row] for row, positive in zip(rows, is_positive, strict=False) if positive} <= set(basket.item_ids)
    real_items = {item_id for _, _, item_id in archived}
    assert {table.ids[row] for row in build_pairs(baskets, table, 0).flatten().tolist()} <= real_items


def test_train_behavior_publishes_a_model_for_each_block_and_resumes(state: Path) -> None:
    output = reaseq(state, "train", "behavior", "--blocks", "2", "--epochs", "1")

    versions = [line.split()[2].rstrip(",") for line in output.splitlines() if line.startswith("published: behavior")]
    assert len(versions) == 2
    manifests = [json.loads((state / "models" / "behavior" / v / "manifest.json").read_text())["facts"] for v in versions]
    assert manifests[0]["trained_until_ms"] < manifests[1]["trained_until_ms"]
    assert (state / "models" / "behavior" / "current").read_text() == versions[1]
    curves = sorted((state / "training" / "behavior").glob("*/curve.png"))
    assert len(curves) == 2 and all(curve.read_bytes().startswith(b"\x89PNG") for curve in curves)

    again = reaseq(state, "train", "behavior", "--blocks", "2", "--epochs", "1")
    assert all(version in again for version in versions)  # resumed from the checkpoints: equal models are one version


def test_semantic_ids_are_fitted_reported_and_used_in_training(state: Path) -> None:
    assert "no semantic-ids model is published" in reaseq(state, "representation", "codes", status=1)
    assert "lower --codes" in reaseq(state, "train", "semantic-ids", "--codes", "100000", status=1)

    output = reaseq(state, "train", "semantic-ids", "--levels", "2", "--codes", "32")
    assert "without a collision" in output and "published: semantic-ids 2x32-" in output
    assert "0 items were listed" in reaseq(state, "representation", "codes")
    assert "published: behavior" in reaseq(state, "train", "behavior", "--codes", "--epochs", "1")


def test_neighbors_prints_the_nearest_items(state: Path) -> None:
    output = reaseq(state, "representation", "neighbors", "22423", "--count", "3")

    assert "REGENCY CAKESTAND 3 TIER" in output and "1.000" in output
    assert "no item 'nothing'" in reaseq(state, "representation", "neighbors", "nothing", status=1)


def test_train_alignment_uses_only_baskets_before_until(state: Path) -> None:
    output = reaseq(state, "train", "alignment", "--steps", "20", "--until", "2011-10-01")

    folder = Path(output.split("REASEQ_ENCODER__ALIGNMENT=")[1].replace("\n", "").strip())
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    assert facts["pairs"] > 100 and facts["trained_until_ms"] < 1_317_427_200_000  # before --until


def test_unknown_names_and_an_empty_archive_are_reported(state: Path, tmp_path: Path) -> None:
    assert "unknown preset 'huge'" in reaseq(state, "train", "behavior", "--preset", "huge", status=1)
    assert "not a LLaDA checkpoint" in reaseq(state, "train", "behavior", "--init", str(tmp_path), status=1)
    assert "has no history" in reaseq(state, "train", "behavior", "--until", "2001-01-01", status=1)
    (tmp_path / "empty").mkdir()
    assert "no such table" in reaseq(tmp_path / "empty", "train", "behavior", status=1)
