"""Fixtures and settings of all tests."""

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog
from filelock import FileLock

# Test processes share the cores: with several threads each, they mostly wait for one another. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
import features  # noqa: F401  before any test imports Feast: see features/__init__.py

# Tests must not write into the user's state directory.
os.environ["REASEQ_STATE_DIR"] = tempfile.mkdtemp(prefix="reaseq-tests-")
atexit.register(shutil.rmtree, os.environ["REASEQ_STATE_DIR"], ignore_errors=True)
# All runs share the Kafka jars and the vLLM environment, which are large.
os.environ.setdefault("REASEQ_KAFKA_LIBS", str(Path(__file__).parents[1] / "var" / "kafka" / "libs"))
os.environ.setdefault("REASEQ_VLLM_ENVS", str(Path(__file__).parents[1] / "var" / "vllm"))

os.environ["PATH"] += os.pathsep + str(Path(__file__).parents[1] / "var" / "tools")

# Unit tests measure no time: on a busy machine any example may take long.
hypothesis.settings.register_profile("reaseq", deadline=None)
hypothesis.settings.load_profile("reaseq")

NEEDED = {program: program for program in ("redis-server", "prometheus", "chromium")}
NEEDED |= {"java": "openjdk-17-jre-headless", "mvn": "maven"}


# Files that take minutes come first, so that parallel test processes end at about the same time.
LONGEST_FIRST = (
    "test_reasoning",
    "test_stream",
    "test_tutorial",
    "test_observability",
    "test_console",
    "test_faults",
    "test_security",
    "test_behavior_commands",
    "test_knowledge_commands",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files by duration. Skip integration tests if a program is missing; in CI, fail instead."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if not missing:
        return
    hint = f"needs {', '.join(missing)}: apt-get install {' '.join(missing)}"
    if os.environ.get("CI"):
        raise pytest.UsageError(f"CI must not skip tests, but a test {hint}")
    for item in items:
        if item.get_closest_marker("integration"):
            item.add_marker(pytest.mark.skip(reason=hint))


@pytest.fixture(autouse=True)
def restore_log_configuration() -> Iterator[None]:
    """Restore the log configuration after each test."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(scope="session")
def quick_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick demo, run once with its command: `out/` has the report, `state/models` the models."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "quick-demo"  # one for all test processes
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            env = {**os.environ, "REASEQ_STATE_DIR": str(folder / "state")}
            command = [sys.executable, "-m", "reaseq", "demo", "--quick", "--out", str(folder / "out")]
            run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stdout + run.stderr
    return folder
