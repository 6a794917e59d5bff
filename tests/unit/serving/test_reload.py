"""Hot reload of published rankers."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from reaseq.artifacts import MANIFEST, Artifact, publish
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.errors import ArtifactError
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.onnx_forward import OnnxForward
from reaseq.records import Inferred, UserFeatures
from reaseq.settings import Settings
from serving.degradation import DegradingRanker
from serving.micro_batching import MicroBatcher
from serving.reload import Reloader
from serving.service import RankingService
from tests.fakes.catalog import CATALOG, NOW_MS
from tests.fakes.ranker import USER, WIDTH, Store, aggregates, engine, publish_behavior, publish_ranker
from tests.fakes.serving import CANDIDATES, build_ranker, build_task


def build_reloader(models_dir: Path, ranker: DegradingRanker) -> tuple[Reloader, LatentModels]:
    latents = LatentModels(models_dir)

    def load(artifact: Artifact) -> Engine:
        artifact.require(space_id="s")
        return Engine.load(artifact, CATALOG, aggregates(), latents)

    return Reloader(models_dir, ranker, [latents], load, interval_s=0.01), latents


def rejections() -> float:
    return REGISTRY.get_sample_value("reaseq_rank_reloads_total", {"outcome": "rejected"}) or 0


def test_published_ranker_takes_over_with_the_behavior_model(tmp_path: Path) -> None:
    ranker = build_ranker(Store(USER))
    reloader, latents = build_reloader(tmp_path, ranker)
    version = publish_ranker(tmp_path, seed=1)
    inferred = Inferred(model=publish_behavior(tmp_path), latent=np.ones(WIDTH, np.float16).tobytes())

    reloader.check()

    assert ranker.engine.version == version
    assert latents.scores([inferred], torch.tensor([[1]]), CATALOG.snapshot)[1] == [True]
    (result,) = ranker.rank([build_task()])
    assert result.model == version


def test_ranker_of_another_space_or_with_a_truncated_file_is_rejected_and_counted_once(tmp_path: Path) -> None:
    ranker = build_ranker(Store(USER))
    reloader, _ = build_reloader(tmp_path, ranker)
    version = publish_ranker(tmp_path, seed=1)
    reloader.check()

    publish_ranker(tmp_path, seed=2, space_id="of another encoder")
    reloader.check()
    truncated = publish_ranker(tmp_path, seed=3)
    (tmp_path / RANKER / truncated / "model.safetensors").write_bytes(b"cut")
    before = rejections()
    reloader.check()
    reloader.check()

    assert ranker.engine.version == version
    assert rejections() == before + 1

    newest = publish_ranker(tmp_path, seed=4)
    assert (tmp_path / RANKER / newest / MANIFEST).exists()
    reloader.start()
    deadline = time.monotonic() + 10
    while ranker.engine.version != newest and time.monotonic() < deadline:
        time.sleep(0.02)
    reloader.stop()
    assert ranker.engine.version == newest


def edited(models_dir: Path, kind: str, version: str, file: str, edit: Callable[[bytes], bytes]) -> str:
    """Publish a version again with one file edited; returns the name of the new version."""
    folder = models_dir / kind / version
    facts = json.loads((folder / MANIFEST).read_text())["facts"]
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}
    return publish(models_dir, kind, "edited", files | {file: edit(files[file])}, facts).version


def with_unknown_field(content: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"invented": 1}).encode()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_thread_survives_models_that_cannot_be_loaded_and_loads_the_next_one(tmp_path: Path) -> None:
    ranker = build_ranker(Store(USER))
    reloader, latents = build_reloader(tmp_path, ranker)
    behavior = publish_behavior(tmp_path)
    version = publish_ranker(tmp_path, seed=1)
    reloader.start()
    wait_until(lambda: ranker.engine.version == version)

    with capture_logs() as logs:
        bad_ranker = edited(tmp_path, RANKER, version, "config.json", with_unknown_field)
        bad_behavior = edited(tmp_path, BEHAVIOR, behavior, "config.json", with_unknown_field)
        wait_until(lambda: len(logs) == 2)
        (tmp_path / RANKER / "current").write_text("")
        wait_until(lambda: len(logs) == 3)
        newest = publish_ranker(tmp_path, seed=2)
        wait_until(lambda: ranker.engine.version == newest)
        reloader.stop()

    rejected = {line["kind"]: line["reason"] for line in logs[:2]}
    assert bad_ranker in rejected[RANKER] and bad_behavior in rejected[BEHAVIOR]
    assert "invented" in rejected[RANKER] and "invented" in rejected[BEHAVIOR]
    assert [line["event"] for line in logs] == ["model_rejected"] * 3 + ["ranker_reloaded"]  # each rejection once
    state = Inferred(model=behavior, latent=np.ones(WIDTH, np.float16).tobytes())
    assert latents.scores([state], torch.tensor([[1]]), CATALOG.snapshot)[1] == [True]  # the former behavior model still serves


def test_damaged_behavior_pointer_does_not_keep_a_ranker_from_taking_over(tmp_path: Path) -> None:
    ranker = build_ranker(Store(USER))
    reloader, _ = build_reloader(tmp_path, ranker)
    publish_behavior(tmp_path)
    (tmp_path / BEHAVIOR / "current").write_text("cut")
    version = publish_ranker(tmp_path, seed=1)

    reloader.check()

    assert ranker.engine.version == version


def test_ranker_that_cannot_score_does_not_take_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = build_ranker(Store(USER))
    reloader, _ = build_reloader(tmp_path, ranker)
    before, count = ranker.engine, rejections()
    publish_ranker(tmp_path, seed=1)
    monkeypatch.setattr(OnnxForward, "probability", lambda self, batch, items: np.full(batch.candidates.shape, np.nan))

    reloader.check()

    assert ranker.engine is before
    assert rejections() == count + 1


def test_any_error_of_a_load_is_a_rejection(tmp_path: Path) -> None:
    def load(artifact: Artifact) -> Engine:
        raise MemoryError

    reloader, count = Reloader(tmp_path, build_ranker(Store(USER)), [], load, interval_s=0.01), rejections()
    publish_ranker(tmp_path, seed=1)

    reloader.check()

    assert rejections() == count + 1


def test_service_starts_with_the_newest_whole_ranker(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    version = publish_ranker(settings.models_dir, seed=1)
    edited(settings.models_dir, RANKER, version, "config.json", with_unknown_field)

    service = RankingService(settings)
    with capture_logs() as logs:
        service.reloader.check()

    assert service.ranker.engine.version == version
    assert [line["event"] for line in logs] == ["model_rejected"]  # and the current version is tried, and counted as rejected

    (settings.models_dir / RANKER / version / "model.safetensors").unlink()
    with pytest.raises(
        ArtifactError, match="invented"
    ):  # no version is left: the error says what is wrong with the current one
        RankingService(settings)


def test_every_result_under_load_comes_from_one_model_during_reloads(tmp_path: Path) -> None:
    ranker = build_ranker(Store(USER))
    reloader, _ = build_reloader(tmp_path, ranker)
    expected = {"v0": engine().score(USER, CANDIDATES, NOW_MS)}
    batcher = MicroBatcher(ranker.rank, 8000, 1000)
    futures = []
    for seed in (1, 2, 3):
        version = publish_ranker(tmp_path, seed)
        futures += [batcher.submit(build_task()) for _ in range(5)]
        reloader.check()
        expected[version] = ranker.engine.score(USER, CANDIDATES, NOW_MS)
        futures += [batcher.submit(build_task()) for _ in range(5)]

    for future in futures:
        result = future.result(10)
        assert np.allclose(result.scores, expected[result.model], atol=1e-6)
    assert futures[-1].result().model == version
    batcher.close()


def test_batch_finishes_with_the_model_it_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(USER)
    ranker = build_ranker(store)
    read_users = store.read_available_users

    def replace_engine_and_read(user_ids: Sequence[str]) -> tuple[dict[str, UserFeatures], set[int]]:
        ranker.engine = engine(seed=1)
        return read_users(user_ids)

    monkeypatch.setattr(store, "read_available_users", replace_engine_and_read)
    (result,) = ranker.rank([build_task()])

    assert result.model == "v0"
    assert np.allclose(result.scores, engine().score(USER, CANDIDATES, NOW_MS), atol=1e-6)
