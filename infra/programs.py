"""Programs of this machine: required, run to their end, stopped. Needs nothing but the standard library."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from reaseq.errors import InfrastructureError

STOP_TIMEOUT_S = 60.0
TAIL_CHARACTERS = 2000


def require(program: str, package: str) -> None:
    """Raise InfrastructureError if a program is not installed."""
    if not shutil.which(program):
        raise InfrastructureError(f"{program} is not installed: install {package}")


def run(
    command: Sequence[str | Path],
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    text: str | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command with `text` as its input. Raises InfrastructureError with its last lines if it fails and `check` is set."""
    done = subprocess.run(command, cwd=folder, env=environment, input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        output = (done.stdout + done.stderr)[-TAIL_CHARACTERS:].strip()
        raise InfrastructureError(f"failed: {' '.join(map(str, command))}\n{output}")
    return done


def stop_process(pid: int) -> None:
    """End a process that another one started, and wait until it is gone."""
    os.kill(pid, 15)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while Path(f"/proc/{pid}/status").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        if time.monotonic() > deadline:
            raise InfrastructureError(f"process {pid} does not stop")
        time.sleep(0.5)


def unmount_below(folder: Path) -> None:
    """Unmount what was left mounted in a folder, the innermost first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if Path(mount).is_relative_to(folder)), reverse=True):
        run(["umount", "-l", mount], check=False)
