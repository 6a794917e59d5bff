"""Runs `reaseq` commands in the test's process: importing Feast and torch anew takes ten seconds of a core each time."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner

from cli import app
from infra import local
from reaseq.settings import Settings


def run_command(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `reaseq ARGUMENTS` with variables added to the environment, on a terminal of 200 columns."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **env})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def reaseq(where: Path | Settings, *arguments: str, status: int = 0) -> str:
    """What a command prints, on a state folder or on a whole system's settings; the exit status must be `status`."""
    env = local.environment(where) if isinstance(where, Settings) else {"REASEQ_STATE_DIR": str(where)}
    done = run_command(*arguments, env=env)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr
