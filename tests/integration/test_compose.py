"""Docker Compose's loader validates docker-compose.yml against the Compose specification."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.integration.go_tools import needs
from tests.unit.infra.test_compose import ROOT, SERVICES

pytestmark = [pytest.mark.integration, needs("compose-go")]


def load(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["compose-go", str(file)], capture_output=True, text=True, check=False)


def write(file: Path, text: str) -> Path:
    """A compose file with passwords: this loader reads none from `.env`."""
    file.write_text(re.sub(r"\$\{\w+_PASSWORD(:\?[^}]*)?\}", "secret", text))
    return file


def test_compose_file_is_valid(tmp_path: Path) -> None:
    run = load(write(tmp_path / "docker-compose.yml", (ROOT / "docker-compose.yml").read_text()))

    assert run.returncode == 0, run.stdout + run.stderr
    services = yaml.safe_load(run.stdout)["services"]
    assert services.keys() == SERVICES.keys()
    assert services["llm-reasoner"]["environment"].keys() == SERVICES["llm-reasoner"]["environment"].keys()


@pytest.mark.parametrize(
    ("written", "misspelled"),
    [("stop_grace_period:", "stop_grace_time:"), ("condition: service_healthy", "condition: healthy"), ("cpus:", "cores:")],
)
def test_loader_rejects_unknown_fields_and_values(tmp_path: Path, written: str, misspelled: str) -> None:
    text = (ROOT / "docker-compose.yml").read_text().replace(written, misspelled)

    assert load(write(tmp_path / "docker-compose.yml", text)).returncode == 1
