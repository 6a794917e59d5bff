"""The rules as Prometheus' own tool judges them."""

import subprocess

import pytest

from infra.prometheus.server import RULES

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "command", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml"), ("check", "config", "prometheus.yml")]
)
def test_promtool_has_nothing_against_them(command: tuple[str, ...]) -> None:
    run = subprocess.run(["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
