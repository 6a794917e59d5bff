"""Hot reload of published rankers."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from reaseq.artifacts import MANIFEST, Artifact
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.latent import LatentModels
from reaseq.records import Inferred, UserFeatures
from serving.degradation import DegradingRanker
from serving.micro_batching import MicroBatcher
from serving.reload import Reloader
from tests.fakes.catalog import CATALOG, NOW_MS
from tests.fakes.ranker import USER, WIDTH, Store, engine, popularity, publish_behavior, publish_ranker
from tests.fakes.serving import CANDIDATES, build_ranker, build_task


def build_reloader(models_dir: Path, ranker: DegradingRanker) -> tuple[Reloader, LatentModels]:
    latents = LatentModels(models_dir)

    def load(artifact: Artifact) -> Engine:
        artifact.require(space_id="s")
        return Engine.load(artifact, CATALOG, popularity(), latents)

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
    read_users = store.read_users

    def replace_engine_and_read(user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        ranker.engine = engine(seed=1)
        return read_users(user_ids)

    monkeypatch.setattr(store, "read_users", replace_engine_and_read)
    (result,) = ranker.rank([build_task()])

    assert result.model == "v0"
    assert np.allclose(result.scores, engine().score(USER, CANDIDATES, NOW_MS), atol=1e-6)
