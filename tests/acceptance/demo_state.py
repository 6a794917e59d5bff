"""What the tests of commands share: the state that a demo left, and commands on it."""

import shutil
from pathlib import Path

from typer.testing import CliRunner

from cli import app


def make_copy(quick_demo: Path, folder: Path) -> Path:
    """The demo's state, a copy of it: commands publish models."""
    shutil.copytree(quick_demo / "out" / "state", folder)
    shutil.copytree(quick_demo / "state" / "models", folder / "models")
    return folder


def reaseq(state: Path, *arguments: str, status: int = 0) -> str:
    """What a command prints; in this process, which has Feast loaded."""
    run = CliRunner().invoke(app, arguments, env={"REASEQ_STATE_DIR": str(state), "COLUMNS": "200"})
    assert run.exit_code == status, run.output
    return run.output
