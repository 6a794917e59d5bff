"""Virtual environments of their own for programs whose dependencies are not ours. They are installed on first use."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from reaseq.errors import InfrastructureError

INSTALL_TIMEOUT_S = 1800.0


def python_of(lock: Path, folder: Path) -> str:
    """The Python interpreter of the environment in `folder` that has what a complete lock file names, hash by hash.

    The environment is named by the hash of the lock file. Raises InfrastructureError if it cannot be installed.
    """
    env = folder.resolve() / hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    python, complete = env / "bin" / "python", env / "complete"
    env.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{env}.lock"):
        if not complete.exists():
            _install(lock, env, python)
            complete.touch()
    return str(python)


def _install(lock: Path, env: Path, python: Path) -> None:
    shutil.rmtree(env, ignore_errors=True)
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        raise InfrastructureError(f"{uv} is missing; run `make .venv/runtime` to install it")
    _run([str(uv), "venv", "-q", "-p", sys.executable, str(env)])
    # The lock file is complete, and says which of the dependencies are left out: they must not be installed either.
    _run([str(uv), "pip", "install", "-q", "-p", str(python), "--no-deps", "--require-hashes", "-r", str(lock)])


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        raise InfrastructureError(f"{' '.join(command)} failed: {error.stderr[-2000:]}") from error
