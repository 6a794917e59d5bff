"""docker-compose.yml as Docker Compose's own loader reads it, held against the Compose specification's schema."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.integration.go_tools import needs
from tests.unit.infra.test_compose import ROOT, SERVICES

pytestmark = [pytest.mark.integration, needs("compose-go")]


def loaded(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["compose-go", str(file)], capture_output=True, text=True, check=False)


def test_it_says_what_the_specification_knows_and_nothing_else() -> None:
    run = loaded(ROOT / "docker-compose.yml")

    assert run.returncode == 0, run.stdout + run.stderr
    services = yaml.safe_load(run.stdout)["services"]
    assert services.keys() == SERVICES.keys()
    assert services["llm-reasoner"]["environment"].keys() == SERVICES["llm-reasoner"]["environment"].keys()


@pytest.mark.parametrize(
    ("written", "misspelt"),
    [("stop_grace_period:", "stop_grace_time:"), ("condition: service_healthy", "condition: healthy"), ("cpus:", "cores:")],
)
def test_the_loader_notices_what_is_not_in_the_specification(tmp_path: Path, written: str, misspelt: str) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text((ROOT / "docker-compose.yml").read_text().replace(written, misspelt))

    assert loaded(file).returncode == 1
