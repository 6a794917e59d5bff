"""Background processes that one command starts and another finds and stops.

Each process leads its own session and process group: it outlives the command that started it, and stopping it stops its
children too. `<run_dir>/<name>.json` records the process, `<run_dir>/<name>.log` holds its output, and `<name>.log.1` the
output of the run before.
"""

import os
import random
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel

from reaseq.errors import InfrastructureError

LOOPBACK = "127.0.0.1"
POLL_INTERVAL_S = 0.1
FREE_PORTS = range(20_000, 32_000)  # below the ephemeral range of Linux, which starts at 32768
KILL_WAIT_S = 10.0  # SIGKILL takes effect at once, unless a process hangs in disk I/O
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 16 * 1024
START_TOLERANCE_S = 0.001  # the kernel counts start times in ticks of 10 ms

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Process(BaseModel, frozen=True):
    """A started process. Pid and start time identify it, since the kernel reuses pids."""

    name: str
    pid: int
    boot_to_start_s: float  # unlike the wall-clock start time, does not move when the clock is adjusted
    started_at: datetime
    command: tuple[str, ...]
    ports: tuple[int, ...]
    log: Path

    @property
    def alive(self) -> bool:
        """Whether the process runs. False for a zombie, and when another process has its pid."""
        start_s = _boot_to_start_s(self.pid)
        return start_s is not None and self.matches(start_s) and _is_live(self.pid)

    def matches(self, boot_to_start_s: float) -> bool:
        """Whether a process with this pid and start time is this process."""
        return abs(boot_to_start_s - self.boot_to_start_s) < START_TOLERANCE_S

    def log_tail(self) -> str:
        """The last lines of its output."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


def start(
    run_dir: Path,
    name: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    ports: Sequence[int] = (),
) -> Process:
    """Start `command` in the background and record it. `env` extends the environment of this process.

    Raises InfrastructureError if `name` already runs, or if one of `ports` is in use, since another server would answer there.
    """
    earlier = find(run_dir, name)
    if earlier is not None and earlier.alive:
        raise InfrastructureError(f"{name} already runs with pid {earlier.pid}; stop it first")
    stop(run_dir, name)  # a killed leader may have left children that hold its ports and files
    for port in ports:
        _require_free(name, port)

    run_dir.mkdir(parents=True, exist_ok=True)
    log = (run_dir / f"{name}.log").resolve()
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    pid = _spawn(command, {**os.environ, **(env or {})}, log)
    start_s = _boot_to_start_s(pid)
    if start_s is None:  # a child that exited at once is still a zombie, unless a foreign SIGCHLD handler reaped it
        raise InfrastructureError(f"{name} exited before it could be recorded; see its output in {log}")
    process = Process(
        name=name,
        pid=pid,
        boot_to_start_s=start_s,
        started_at=datetime.now(UTC),
        command=tuple(command),
        ports=tuple(ports),
        log=log,
    )
    _record(run_dir, name).write_text(process.model_dump_json(indent=2))
    return process


def stop(run_dir: Path, name: str, wait_s: float = 30.0) -> None:
    """Stop the process and its group: SIGTERM, then SIGKILL for processes left after `wait_s`.

    All have exited when it returns. Does nothing if `name` does not run. Raises InfrastructureError if a process survives
    SIGKILL.
    """
    process = find(run_dir, name)
    if process is None:
        return
    for number, timeout_s in ((signal.SIGTERM, wait_s), (signal.SIGKILL, KILL_WAIT_S)):
        deadline = time.monotonic() + timeout_s
        if _live_group(process):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        while _live_group(process) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)
    if left := _live_group(process):
        raise InfrastructureError(f"{name}: processes {left} still run {KILL_WAIT_S:g} s after SIGKILL")
    with suppress(ChildProcessError):  # not our child if an earlier command started it
        os.waitpid(process.pid, os.WNOHANG)
    _record(run_dir, name).unlink(missing_ok=True)


def find(run_dir: Path, name: str) -> Process | None:
    """The process last started as `name` and not stopped since, alive or not."""
    try:
        return Process.model_validate_json(_record(run_dir, name).read_bytes())
    except FileNotFoundError:
        return None


def running(run_dir: Path) -> list[Process]:
    """The recorded processes that are alive, sorted by name."""
    found = (find(run_dir, path.stem) for path in sorted(run_dir.glob("*.json")))
    return [process for process in found if process is not None and process.alive]


def wait_until(check: Callable[[], bool], timeout_s: float, what: str, process: Process) -> None:
    """Poll `check` until it holds. If `process` exits first or time runs out, stop it and raise with the end of its log."""
    deadline = time.monotonic() + timeout_s
    while process.alive and time.monotonic() < deadline:
        if check():
            return
        time.sleep(POLL_INTERVAL_S)
    problem = f"not ready after {timeout_s:g} s" if process.alive else "the process exited"
    stop(process.log.parent, process.name)
    raise InfrastructureError(f"{what}: {problem}. The end of {process.log}:\n{process.log_tail()}")


def free_port() -> int:
    """A TCP port that is free on loopback right now, outside the kernel's ephemeral range.

    Any outgoing connection may take an ephemeral port before the process listens on it.
    """
    while True:
        port = random.choice(FREE_PORTS)  # noqa: S311  not a secret
        with suppress(OSError), socket.socket() as probe:
            probe.bind((LOOPBACK, port))
            return port


def require_program(program: str, debian_packages: str) -> str:
    """The path of `program`. Raises InfrastructureError with the command that installs it."""
    path = shutil.which(program)
    if path is None:
        raise InfrastructureError(
            f"{program} is not on the PATH; on Debian: apt-get install --no-install-recommends {debian_packages}"
        )
    return path


def _boot_to_start_s(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time() - psutil.boot_time())
    except psutil.NoSuchProcess:
        return None


def _is_live(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        # A process is a zombie once its first thread has exited, but it holds its ports until the last one has.
        return bool(process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def _live_group(process: Process) -> list[int]:
    """Pids of the live processes of its group, the process included; empty if its pid belongs to another process."""
    start_s = _boot_to_start_s(process.pid)
    if start_s is not None and not process.matches(start_s):
        return []
    return [pid for pid in psutil.pids() if _group(pid) == process.pid and _is_live(pid)]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _spawn(command: Sequence[str], env: Mapping[str, str], log: Path) -> int:
    # Not subprocess.Popen, which warns when its object is dropped while the child runs; these children outlive it.
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawnp(
        command[0],
        list(command),
        env,
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGINT],  # ignored by Python and by background jobs of a shell, respectively
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


def _require_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections in TIME_WAIT
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise InfrastructureError(
                f"{name} needs port {port}, which is in use; stop the process that listens on it"
            ) from error


def _record(run_dir: Path, name: str) -> Path:
    return run_dir / f"{name}.json"


def http_get(url: str, timeout_s: float = 2.0) -> str | None:
    """The body of a successful response, or None. Never goes through a proxy: the addresses are our own, on loopback."""
    try:
        with _DIRECT.open(url, timeout=timeout_s) as answer:
            body: bytes = answer.read()
            return body.decode()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None
