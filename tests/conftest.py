"""Fixtures and rules that all kinds of tests share."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import features  # noqa: F401  before any test imports Feast itself: see features/__init__.py

# Feast's definitions read the state folder when they are imported: tests must never write into the user's.
os.environ["REASEQ_STATE_DIR"] = tempfile.mkdtemp(prefix="reaseq-tests-")
atexit.register(shutil.rmtree, os.environ["REASEQ_STATE_DIR"], ignore_errors=True)
# The broker's jars and the engine's environment are fetched once for all tests.
os.environ.setdefault("REASEQ_KAFKA_LIBS", str(Path(__file__).parents[1] / "var" / "kafka" / "libs"))
os.environ.setdefault("REASEQ_VLLM_ENVS", str(Path(__file__).parents[1] / "var" / "vllm"))

os.environ["PATH"] += os.pathsep + str(Path(__file__).parents[1] / "var" / "tools")

NEEDED = {program: program for program in ("redis-server", "prometheus", "chromium")}
NEEDED |= {"java": "openjdk-17-jre-headless", "mvn": "maven"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave integration tests out where a machine lacks a program, and say how to get it; CI may lack none."""
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if not missing:
        return
    hint = f"left out: needs {', '.join(missing)} (apt-get install {' '.join(missing)})"
    if os.environ.get("CI"):
        raise pytest.UsageError(f"no test may be {hint}")
    for item in items:
        if item.get_closest_marker("integration"):
            item.add_marker(pytest.mark.skip(reason=hint))


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """How a test sets up the logs holds for that test alone."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def quick_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick demo, run once as a user would: `out/` holds its report, `state/models` its models."""
    folder = tmp_path_factory.mktemp("quick-demo")
    env = {**os.environ, "REASEQ_STATE_DIR": str(folder / "state")}
    command = [sys.executable, "-m", "reaseq", "demo", "--quick", "--out", str(folder / "out")]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder
