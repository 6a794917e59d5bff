"""promtool validates rules and configuration, and runs the rule tests."""

import subprocess

import pytest

from infra.prometheus.server import RULES

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "command", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml"), ("check", "config", "prometheus.yml")]
)
def test_promtool_accepts_rules_and_configuration(command: tuple[str, ...]) -> None:
    run = subprocess.run(["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
