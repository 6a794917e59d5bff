"""The ranker's commands on the state of a finished demo: point-in-time training, explanation, and parity."""

import json
from pathlib import Path

import msgspec
import pytest

from features.definitions import user_history
from features.repository import FeatureRepository
from pipelines.catalog import load_item_table
from pipelines.ranker import RankerPipeline
from reaseq.artifacts import current
from reaseq.ranker.batch import FEATURES_VERSION
from reaseq.ranker.training import RankerTrainingConfig
from reaseq.ranker.training_data import RankerTrainingData
from reaseq.settings import Settings
from serving.served_feature_log import served_user
from tests.acceptance.demo_state import make_copy
from tests.commands import reaseq

pytestmark = pytest.mark.slow

CONFIG = RankerTrainingConfig(epochs=1, batch_baskets=8)


@pytest.fixture(scope="module")
def state(quick_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_copy(quick_demo, tmp_path_factory.mktemp("ranked") / "state")


def test_train_ranker_measures_publishes_and_resumes(state: Path) -> None:
    output = reaseq(state, "train", "ranker", "--epochs", "1")

    artifact = current(state / "models", "ranker")
    assert f"published: ranker {artifact.version}" in output and "0 without inferred behaviors" in output
    facts = artifact.facts
    assert facts["features"] == FEATURES_VERSION and facts["behavior_models"] and facts["space_id"] and facts["vocabulary"]
    assert 0 < facts["held_out"]["ranker"]["calibration_error"] < 0.05
    assert facts["held_out"]["ranker"]["gauc"] > 0.55
    assert list((state / "training" / "ranker").glob("*/curve.png"))
    again = reaseq(state, "train", "ranker", "--epochs", "1")
    assert artifact.version in again  # resumed from the checkpoint: equal models are one version


def load_data(settings: Settings) -> tuple[RankerTrainingData, int]:
    repository = FeatureRepository(settings)
    pipeline = RankerPipeline(repository, load_item_table(repository), settings.models_dir)
    log, dropped = pipeline.load_log(2**53)
    return pipeline.build_data(log, CONFIG, pipeline.config), dropped


def test_inferences_by_a_model_trained_on_later_data_are_dropped(state: Path) -> None:
    settings = Settings(state_dir=state)
    before, dropped_before = load_data(settings)
    manifests = sorted((state / "models" / "behavior").glob("*/manifest.json"))
    kept = [manifest.read_text() for manifest in manifests]
    for manifest, text in zip(manifests, kept, strict=True):
        manifest_json = json.loads(text)
        manifest_json["facts"]["trained_until_ms"] = 2**52
        manifest.write_text(json.dumps(manifest_json))

    after, dropped_after = load_data(settings)

    for manifest, text in zip(manifests, kept, strict=True):
        manifest.write_text(text)
    confidences = [bool(data.train.batch.confidences.any()) for data in (before, after)]
    scores = [bool(data.train.batch.numbers[..., data.config.score_columns].any()) for data in (before, after)]
    assert dropped_before == 0 < dropped_after
    assert confidences == scores == [True, False]
    assert after.behavior_models == []


def test_rank_explains_contributions_and_feature_ages(state: Path) -> None:
    repository = FeatureRepository(Settings(state_dir=state))
    user_id = next(iter(sorted(repository.scan_ids(user_history))))
    output = reaseq(state, "rank", user_id, "--best", "2")

    assert (
        f"user {user_id} at" in output
        and "contributed by" in output
        and "latent state" in output
        and "newest behavior" in output
    )
    few = reaseq(state, "rank", user_id, "22423", "85123A", "--at", "2011-12-01T12:00")
    assert "2 candidates" in few and "(22423)" in few and "2011-12-01 12:00" in few
    assert "user nobody has no features" in reaseq(state, "rank", "nobody", "22423")
    assert "does not know item nothing" in reaseq(state, "rank", user_id, "nothing", status=1)
    assert "is not a date" in reaseq(state, "rank", user_id, "--at", "yesterday", status=1)


def test_parity_fails_on_served_rows_that_differ_from_the_join(state: Path) -> None:
    [log] = Settings(state_dir=state).served_features_dir.glob("rows-*.jsonl")
    assert " different " not in reaseq(state, "features", "parity")  # the demo's own log
    log.unlink()
    assert "nothing was served" in reaseq(state, "features", "parity")
    repository = FeatureRepository(Settings(state_dir=state))
    (user,) = repository.read_users([sorted(repository.scan_ids(user_history))[0]]).values()
    row = served_user(user, user.event_time_ms + 1)
    log.write_text(json.dumps(_plain(row)) + "\n")

    assert "1 served rows" in reaseq(state, "features", "parity")
    changed = _plain(row) | {"features": dict.fromkeys(row.features, "0" * 16)}
    log.write_text(json.dumps(changed) + "\n")
    assert f"different: user_history:history of user {user.user_id}" in reaseq(state, "features", "parity", status=1)


def _plain(row: object) -> dict[str, object]:
    return msgspec.to_builtins(row)  # type: ignore[no-any-return]
