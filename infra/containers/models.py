"""Models for a system that has none."""

import os
from pathlib import Path

from infra.containers.engine import Docker
from reaseq.errors import InfrastructureError

REQUIRE_FEATURES = """
from pathlib import Path
from reaseq.artifacts import current
from reaseq.ranker.batch import FEATURES_VERSION
current(Path("/state/models"), "ranker").require(features=FEATURES_VERSION)
"""


def train_models(docker: Docker, image: str, state: Path) -> str:
    """Train models on a small part of the sample, unless `state`/models has some. Returns which there are now.

    Raises InfrastructureError if there is a ranker that the image's code cannot read.
    """
    if (state / "models" / "ranker" / "current").exists():
        _require_features(docker, image, state)
        return f"those in {state / 'models'}"
    state.mkdir(exist_ok=True)
    options = [*_run_as_owner(f"{state}:/state"), "-e", "REASEQ_STATE_DIR=/state"]
    docker.run(*options, image, "demo", "--quick", "--out", "/tmp/demo")  # noqa: S108  in the container
    return "trained on a small part of the sample"


def _run_as_owner(mount: str) -> list[str]:
    """A container that is removed in the end, and writes files of whoever runs this."""
    return ["run", "--rm", "--user", f"{os.getuid()}:{os.getgid()}", "-v", mount]


def _require_features(docker: Docker, image: str, state: Path) -> None:
    """The service would only say so in its log, and start again and again."""
    options = [*_run_as_owner(f"{state}:/state:ro"), "--entrypoint", "python"]
    checked = docker.run(*options, image, "-c", REQUIRE_FEATURES, check=False)
    if checked.returncode:
        reason = checked.stderr.strip().splitlines()[-1].partition("Error: ")[2] or "it cannot be read"
        raise InfrastructureError(f"{state / 'models'}: {reason}, or remove this folder to have models of the sample trained")
