"""Latent scores: what they mean, and which users' states can be read."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from reaseq import float16
from reaseq.artifacts import Artifact, load_version
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.model_artifacts import load_sizes, load_weights
from reaseq.ranker import latent as latent_module
from reaseq.ranker.latent import MODELS_LIMIT, LatentModels, LatentScores
from reaseq.records import Inferred
from reaseq.representation.item_table import ItemTable
from tests.fakes.catalog import CATALOG, build_table, item
from tests.fakes.ranker import IDS, WIDTH, publish_behavior

SCORED = 300  # by each thread


def test_latent_score_is_half_the_log_probability_above_average(tmp_path: Path) -> None:
    version = publish_behavior(tmp_path)
    artifact = load_version(tmp_path, BEHAVIOR, version)
    model = load_weights(artifact, BehaviorModel(load_sizes(artifact, BehaviorConfig)))
    table = CATALOG.snapshot
    state = float16.pack(np.random.default_rng(0).normal(size=WIDTH))
    latents = LatentModels(tmp_path)
    latents.load(version)
    rows = table.rows(["i1", "i299"]).unsqueeze(0)

    scores, read = latents.scores([Inferred(model=version, latent=state)], rows, table)

    assert read == [True]
    for column, numbers in enumerate((IDS.number(table), torch.zeros(len(table), dtype=torch.long))):
        with torch.inference_mode():
            hidden = torch.from_numpy(float16.unpack(state))
            p = torch.log_softmax(model.logits(hidden, model.token_table(table, numbers), 0, None)[1:], dim=-1)
        expected = (p - p.mean())[rows[0] - 1] / 2
        assert torch.allclose(scores[0, :, column], expected, atol=1e-4)


def test_equal_catalogs_give_equal_scores_however_they_came_about(tmp_path: Path) -> None:
    """The contents that items had before still take slots of the table, which differs by the moment a process started."""
    version, state = publish_behavior(tmp_path), float16.pack(np.random.default_rng(0).normal(size=WIDTH))
    onboarded = build_table(*(item(number + 500, item_id=f"i{number}", status="text") for number in range(20)))
    latents = LatentModels(tmp_path)
    latents.load(version)

    def scores(table: ItemTable) -> torch.Tensor:
        snapshot = table.snapshot
        candidates = snapshot.rows(["i1", "i7"]).unsqueeze(0)
        return latents.scores([Inferred(model=version, latent=state)], candidates, snapshot)[0]

    scores(onboarded)
    for start in (0, 7, 14):
        onboarded.apply([item(number, event_time_ms=2) for number in range(start, start + 14)])
        scores(onboarded)

    assert torch.allclose(scores(onboarded), scores(build_table(*map(item, range(28)))), atol=1e-6)


def test_state_of_a_missing_model_scores_zero_until_the_model_is_loaded(tmp_path: Path) -> None:
    one, other = publish_behavior(tmp_path, 1), publish_behavior(tmp_path, 2)
    latents = LatentModels(tmp_path)
    latents.load(one)
    state = float16.pack(np.ones(WIDTH))
    users = [
        Inferred(model=one, latent=state),
        Inferred(model=other, latent=state),
        Inferred(model="unpublished", latent=state),
    ]
    rows = CATALOG.snapshot.rows(["i1", "i2"]).expand(3, -1)

    before, read = latents.scores(users, rows, CATALOG.snapshot)
    latents.load_wanted()
    after, read_then = latents.scores(users, rows, CATALOG.snapshot)

    assert read == [True, False, False] and read_then == [True, True, False]
    assert (before[1] == 0).all() and (after[1] != 0).all() and (after[2] == 0).all()
    assert torch.equal(before[0], after[0])


def test_names_that_are_not_published_evict_no_model(tmp_path: Path) -> None:
    """The names come from the rows of users."""
    version, state = publish_behavior(tmp_path), float16.pack(np.ones(WIDTH))
    latents = LatentModels(tmp_path)
    latents.load(version)
    invented = [f"invented-{number}" for number in range(3 * MODELS_LIMIT)] + ["", "..", "a/b", "\x00", "v" * 5000]
    rows = CATALOG.snapshot.rows(["i1"]).expand(len(invented), -1)

    for _ in range(3):
        latents.scores([Inferred(model=name, latent=state) for name in invented], rows, CATALOG.snapshot)
        latents.load_wanted()

    assert latents.scores([Inferred(model=version, latent=state)], rows[:1], CATALOG.snapshot)[1] == [True]
    assert list(latents._models) == [version] and not latents._wanted


def test_most_recently_used_models_stay_loaded(tmp_path: Path) -> None:
    first, *others = (publish_behavior(tmp_path, seed) for seed in range(MODELS_LIMIT + 1))
    state, rows = float16.pack(np.ones(WIDTH)), CATALOG.snapshot.rows(["i1"]).unsqueeze(0)
    latents = LatentModels(tmp_path)
    for version in (first, *others):
        latents.load(version)
        latents.scores([Inferred(model=first, latent=state)], rows, CATALOG.snapshot)

    assert set(latents._models) == {first, *others[1:]}


def test_model_that_cannot_be_loaded_is_reported_once_and_takes_no_place(tmp_path: Path) -> None:
    version = publish_behavior(tmp_path)
    (tmp_path / BEHAVIOR / version / "model.safetensors").write_bytes(b"cut")
    latents = LatentModels(tmp_path)
    users, rows = [Inferred(model=version, latent=float16.pack(np.ones(WIDTH)))], CATALOG.snapshot.rows(["i1"]).unsqueeze(0)

    with capture_logs() as logs:
        for _ in range(3):
            assert latents.scores(users, rows, CATALOG.snapshot)[1] == [False]
            latents.load_wanted()

    (line,) = logs
    assert line["event"] == "model_rejected" and version in line["reason"]


def test_state_of_another_width_is_not_read(tmp_path: Path) -> None:
    version, rows = publish_behavior(tmp_path), CATALOG.snapshot.rows(["i1"]).expand(2, -1)
    latents = LatentModels(tmp_path)
    latents.load(version)
    users = [Inferred(model=version, latent=float16.pack(np.ones(width))) for width in (WIDTH, WIDTH + 1)]

    assert latents.scores(users, rows, CATALOG.snapshot)[1] == [True, False]


def test_models_can_be_loaded_and_evicted_while_others_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More versions than fit are loaded in turn by several threads, so that lookups and loads race with evictions."""
    model = LatentScores.load(load_version(tmp_path, BEHAVIOR, publish_behavior(tmp_path)))
    monkeypatch.setattr(latent_module, "load_version", lambda *_: Artifact(BEHAVIOR, "", tmp_path, {}))
    monkeypatch.setattr(LatentScores, "load", lambda artifact: model)
    monkeypatch.setattr(LatentScores, "score", lambda self, latents, candidates, table: torch.ones(len(latents), 1, 2))
    versions = [f"v{number}" for number in range(MODELS_LIMIT + 2)]
    users = [Inferred(model=version, latent=float16.pack(np.ones(WIDTH))) for version in versions]
    rows = torch.ones(len(users), 1, dtype=torch.long)
    latents, stop, failures = LatentModels(tmp_path), threading.Event(), list[Exception]()

    def load() -> None:
        try:
            while not stop.is_set():
                for version in versions:
                    latents.load(version)
                latents.load_wanted()
        except Exception as error:
            failures.append(error)

    def score() -> None:
        try:
            for _ in range(SCORED):
                scores, read = latents.scores(users, rows, CATALOG.snapshot)
                assert [bool(user) for user in scores[:, 0, 0]] == read
        except Exception as error:
            failures.append(error)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        loaders, scorers = ([threading.Thread(target=target) for _ in range(4)] for target in (load, score))
        for thread in (*loaders, *scorers):
            thread.start()
        for thread in scorers:
            thread.join()
        stop.set()
        for thread in loaders:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)

    assert not failures
