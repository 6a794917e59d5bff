"""What was inferred on the stream, and the commands about behaviors and representation, on the state of a real replay."""

import json
from collections import defaultdict
from pathlib import Path

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
from reaseq.behavior.examples import build_examples, build_pairs
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.training import RankerSample, RankerTrainingConfig
from reaseq.ranker.training import build_examples as build_ranker_examples
from reaseq.settings import BehaviorSettings, Settings
from tests.acceptance.demo_state import make_copy, reaseq

pytestmark = pytest.mark.slow

END_MS = 2**53


@pytest.fixture(scope="module")
def state(quick_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_copy(quick_demo, tmp_path_factory.mktemp("trained") / "state")


@pytest.fixture(scope="module")
def repository(state: Path) -> FeatureRepository:
    """The feature store and the archive of that state."""
    return FeatureRepository(Settings(state_dir=state))


def logged() -> dict[str, set[tuple[int, str]]]:
    """What the log holds of each user: (time, item)."""
    behaviors: dict[str, set[tuple[int, str]]] = defaultdict(set)
    for order in read_retail(ORDER_LINES, QUICK.customers_share, QUICK.start_ms).orders:
        behaviors[order.user_id] |= {(order.time_ms, item_id) for item_id in order.item_ids}
    return behaviors


def test_every_inferred_behavior_says_where_it_comes_from_and_was_not_in_the_log_by_then(state: Path) -> None:
    log, inferred = logged(), 0
    rows = pq.read_table(state / "archive" / user_inferred.name).to_pylist()
    for row in rows:
        item_ids, confidences = unpack_inferred(row["inferred"])
        if not item_ids:
            continue
        inferred += len(item_ids)
        assert row["model"] and 0 < row["as_of_ms"] <= row["event_timestamp"].timestamp() * 1000 and row["events_seen"] > 0
        assert all(0 < p <= 1 for p in confidences)
        by_then = sorted(behavior for behavior in log[row["user_id"]] if behavior[0] <= row["as_of_ms"])
        if len(by_then) <= BehaviorSettings().history_limit_events:  # what a history no longer holds may be inferred again
            assert not set(item_ids) & {item_id for _, item_id in by_then}
    assert inferred > 1000


def test_nothing_that_learns_takes_an_inferred_behavior_for_a_real_one(repository: FeatureRepository) -> None:
    log = logged()
    baskets = baskets_in_archive(repository, END_MS)
    told = [(basket.user_id, basket.time_ms, item_id) for basket in baskets for item_id in basket.item_ids]
    assert len(told) == len(set(told)) and {(u, t, i) for u, of in log.items() for t, i in of} == set(told)

    table = load_item_table(repository).snapshot
    known = users_before(repository, [b.user_id for b in baskets], [b.time_ms for b in baskets])
    only_inferred = 0
    for basket, (history, inferred) in zip(baskets, known, strict=True):
        before = {item_id for time_ms, item_id in log[basket.user_id] if time_ms < basket.time_ms}
        assert set(basket.history.item_ids) == set(history.item_ids) <= before
        only_inferred += len(set(inferred.item_ids) - {item_id for _, item_id in log[basket.user_id]})
    assert only_inferred > 100  # there was something to mistake

    examples = build_examples(baskets, table, history=128, response=64)
    for basket, past, to_come in zip(baskets, examples.history.rows.tolist(), examples.response.tolist(), strict=True):
        assert {table.ids[row] for row in past if row} <= set(basket.history.item_ids)
        assert {table.ids[row] for row in to_come if row >= 0} <= set(basket.item_ids)
    latest = slice(-50, None)
    samples = [RankerSample(basket, inferred) for basket, (_, inferred) in zip(baskets[latest], known[latest], strict=True)]
    ranked = build_ranker_examples(samples, [], table, LatentModels(Path()), RankerConfig(), RankerTrainingConfig())
    for basket, rows, real in zip(baskets[latest], ranked.batch.candidates.tolist(), ranked.positives.tolist(), strict=True):
        assert {table.ids[row] for row, yes in zip(rows, real, strict=False) if yes} <= set(basket.item_ids)
    real_items = {item_id for _, _, item_id in told}
    assert {table.ids[row] for row in build_pairs(baskets, table, 0).flatten().tolist()} <= real_items


def test_a_behavior_model_is_trained_in_blocks_of_time_and_not_anew_where_it_was_stopped(state: Path) -> None:
    said = reaseq(state, "train", "behavior", "--blocks", "2", "--epochs", "1")

    versions = [line.split()[2].rstrip(",") for line in said.splitlines() if line.startswith("published: behavior")]
    assert len(versions) == 2
    manifests = [json.loads((state / "models" / "behavior" / v / "manifest.json").read_text())["facts"] for v in versions]
    assert manifests[0]["trained_until_ms"] < manifests[1]["trained_until_ms"]
    assert (state / "models" / "behavior" / "current").read_text() == versions[1]
    curves = sorted((state / "training" / "behavior").glob("*/curve.png"))
    assert len(curves) == 2 and all(curve.read_bytes().startswith(b"\x89PNG") for curve in curves)

    again = reaseq(state, "train", "behavior", "--blocks", "2", "--epochs", "1")
    assert all(version in again for version in versions)  # from the checkpoints: equal models are one version


def test_semantic_ids_are_fitted_reported_and_trained_with(state: Path) -> None:
    assert "no semantic-ids model is published" in reaseq(state, "representation", "codes", status=1)
    assert "set --codes lower" in reaseq(state, "train", "semantic-ids", "--codes", "100000", status=1)

    said = reaseq(state, "train", "semantic-ids", "--levels", "2", "--codes", "32")
    assert "alone on" in said and "published: semantic-ids 2x32-" in said
    assert "0 items were listed" in reaseq(state, "representation", "codes")
    assert "published: behavior" in reaseq(state, "train", "behavior", "--codes", "--epochs", "1")


def test_neighbors_of_an_item_are_shown_with_what_they_share(state: Path) -> None:
    said = reaseq(state, "representation", "neighbors", "22423", "--count", "3")

    assert "REGENCY CAKESTAND 3 TIER" in said and "1.000" in said
    assert "no item 'nothing'" in reaseq(state, "representation", "neighbors", "nothing", status=1)


def test_an_alignment_head_is_trained_on_what_went_together(state: Path) -> None:
    said = reaseq(state, "train", "alignment", "--steps", "20", "--until", "2011-10-01")

    folder = Path(said.split("REASEQ_ENCODER__ALIGNMENT=")[1].replace("\n", "").strip())
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    assert facts["pairs"] > 100 and facts["trained_until_ms"] < 1_317_427_200_000  # before the day that was named


def test_wrong_names_and_an_empty_archive_are_said_in_one_line(state: Path, tmp_path: Path) -> None:
    assert "no preset 'huge'" in reaseq(state, "train", "behavior", "--preset", "huge", status=1)
    assert "no LLaDA checkpoint" in reaseq(state, "train", "behavior", "--init", str(tmp_path), status=1)
    assert "holds no history" in reaseq(state, "train", "behavior", "--until", "2001-01-01", status=1)
    (tmp_path / "empty").mkdir()
    assert "no such table" in reaseq(tmp_path / "empty", "train", "behavior", status=1)
