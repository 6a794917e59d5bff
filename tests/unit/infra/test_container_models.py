"""Models for the containers: those that are there, unless the image cannot read them."""

import subprocess
from pathlib import Path

import pytest

from infra.containers.engine import Docker
from infra.containers.models import train_models
from reaseq.errors import InfrastructureError

MISFIT = "ranker v was made for features 'ranker-features.4', but this system uses 'ranker-features.5': train it again"


class DockerThatPrints(Docker):
    """Stands in for the engine: every command fails with a message, or does nothing."""

    def __init__(self, folder: Path, error: str = "") -> None:
        super().__init__(folder / "engine", folder)
        self.error = error
        self.commands: list[tuple[str | Path, ...]] = []

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.commands.append(arguments)
        return subprocess.CompletedProcess(arguments, bool(self.error), stdout="", stderr=self.error)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "models" / "ranker").mkdir(parents=True)
    (tmp_path / "models" / "ranker" / "current").write_text("v")
    return tmp_path


def test_models_that_are_there_are_kept(state: Path) -> None:
    docker = DockerThatPrints(state)

    assert train_models(docker, "image", state) == f"those in {state / 'models'}"
    assert not any("demo" in command for command in docker.commands)


def test_models_of_another_release_are_refused_with_what_to_do(state: Path) -> None:
    docker = DockerThatPrints(state, f"Traceback (most recent call last):\nreaseq.errors.ArtifactError: {MISFIT}\n")

    with pytest.raises(InfrastructureError, match=r"models: ranker v was made .*: train it again, or remove this folder"):
        train_models(docker, "image", state)


def test_system_without_models_gets_those_of_the_sample(tmp_path: Path) -> None:
    docker = DockerThatPrints(tmp_path)

    assert train_models(docker, "image", tmp_path / "var") == "trained on a small part of the sample"
    assert "demo" in docker.commands[-1]
