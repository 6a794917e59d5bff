"""Runs `reaseq` commands in the test process, because a new process spends ten seconds importing Feast and torch."""

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
    """The output of a command on a state folder, or on the system with these settings. Its exit status must be `status`."""
    env = local.environment(where) if isinstance(where, Settings) else {"REASEQ_STATE_DIR": str(where)}
    done = run_command(*arguments, env=env)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr
