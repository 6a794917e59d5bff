"""Long-lived child processes: started by one command, found again and stopped by another.

Every process leads a session and process group of its own, so that it outlives the command that started it and is
stopped together with whatever it started. What is known about it lies in `<run_dir>/<name>.json`, its output in
`<run_dir>/<name>.log` (and that of the run before in `<name>.log.1`). Linux only: liveness is read from /proc.
"""

import os
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
from typing import NamedTuple

from pydantic import BaseModel

from reaseq.errors import InfrastructureError

LOOPBACK = "127.0.0.1"
POLL_INTERVAL_S = 0.1
KILL_WAIT_S = 10.0  # the kernel ends a killed group at once, unless one of them hangs in the disk
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 16 * 1024


class Process(BaseModel, frozen=True):
    """A started process. `start_ticks` tells it from a later process that was given the same id."""

    name: str
    pid: int
    start_ticks: int  # clock ticks from boot to its start
    started_at: datetime
    command: tuple[str, ...]
    ports: tuple[int, ...]
    log: Path

    @property
    def alive(self) -> bool:
        """Whether it runs still; a zombie does not, nor does another process under its id."""
        stat = _stat(self.pid)
        return stat is not None and stat.live and stat.start_ticks == self.start_ticks

    def log_tail(self) -> str:
        """The last lines that it wrote."""
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
    """Start `command` in the background and record it; `env` is added to this process's environment.

    Refuses when `name` runs already or one of its `ports` is taken: what listens there would answer in its place.
    """
    earlier = find(run_dir, name)
    if earlier is not None and earlier.alive:
        raise InfrastructureError(f"{name} already runs as process {earlier.pid}; stop it first")
    stop(run_dir, name)  # a leader that was killed may have left children that hold its ports and files
    for port in ports:
        _require_free(name, port)

    run_dir.mkdir(parents=True, exist_ok=True)
    log = (run_dir / f"{name}.log").resolve()
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    pid = _spawn(command, {**os.environ, **(env or {})}, log)
    stat = _stat(pid)
    if stat is None:  # a child that ended at once is still there as a zombie: only a foreign SIGCHLD handler reaps it
        raise InfrastructureError(f"{name} ended before it could be recorded; its output is in {log}")
    process = Process(
        name=name,
        pid=pid,
        start_ticks=stat.start_ticks,
        started_at=datetime.now(UTC),
        command=tuple(command),
        ports=tuple(ports),
        log=log,
    )
    _record(run_dir, name).write_text(process.model_dump_json(indent=2))
    return process


def stop(run_dir: Path, name: str, wait_s: float = 30.0) -> None:
    """End the process and all of its group: SIGTERM, and SIGKILL for what is left after `wait_s`.

    When it returns none of them is left. Stopping what does not run, or was never started, is no error.
    """
    process = find(run_dir, name)
    if process is None:
        return
    for number, patience_s in ((signal.SIGTERM, wait_s), (signal.SIGKILL, KILL_WAIT_S)):
        deadline = time.monotonic() + patience_s
        if _group(process):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        while _group(process) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)
    if left := _group(process):
        raise InfrastructureError(f"{name}: processes {left} did not end {KILL_WAIT_S:g} s after SIGKILL")
    with suppress(ChildProcessError):  # not our child when an earlier command started it
        os.waitpid(process.pid, os.WNOHANG)
    _record(run_dir, name).unlink(missing_ok=True)


def find(run_dir: Path, name: str) -> Process | None:
    """The process last started under `name` and not stopped since, whether it is still alive or not."""
    try:
        return Process.model_validate_json(_record(run_dir, name).read_bytes())
    except FileNotFoundError:
        return None


def running(run_dir: Path) -> list[Process]:
    """The started processes that are alive, by name."""
    found = (find(run_dir, path.stem) for path in sorted(run_dir.glob("*.json")))
    return [process for process in found if process is not None and process.alive]


def wait_until(check: Callable[[], bool], timeout_s: float, what: str, process: Process) -> None:
    """Poll `check` until it holds. If `process` ends first or time runs out, stop it and raise with its last lines."""
    deadline = time.monotonic() + timeout_s
    while process.alive and time.monotonic() < deadline:
        if check():
            return
        time.sleep(POLL_INTERVAL_S)
    problem = f"is not there after {timeout_s:g} s" if process.alive else "will not come: the process ended"
    stop(process.log.parent, process.name)
    raise InfrastructureError(f"{what} {problem}. The end of {process.log}:\n{process.log_tail()}")


def free_port() -> int:
    """A loopback TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_program(program: str, debian_packages: str) -> str:
    """The path of `program`, or an error that says how to install it."""
    path = shutil.which(program)
    if path is None:
        raise InfrastructureError(
            f"{program} is not on the PATH; on Debian: apt-get install --no-install-recommends {debian_packages}"
        )
    return path


class _Stat(NamedTuple):
    """What /proc/<pid>/stat says that matters here."""

    state: str
    group: int
    threads: int
    start_ticks: int

    @property
    def live(self) -> bool:
        # A process is a zombie as soon as its first thread has ended; until the last one has, it holds its ports.
        return self.state not in "ZX" or self.threads > 1


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone before the open, or between open and read
        return None
    # The second field, the program's name in parentheses, may hold anything; the fields after it are plain words.
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], group=int(fields[2]), threads=int(fields[17]), start_ticks=int(fields[19]))


def _group(process: Process) -> list[int]:
    """The live processes of its group, itself among them; none when its id belongs to another process by now."""
    leader = _stat(process.pid)
    if leader is not None and leader.start_ticks != process.start_ticks:
        return []
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    stats = ((pid, _stat(pid)) for pid in pids)
    return [pid for pid, stat in stats if stat is not None and stat.live and stat.group == process.pid]


def _spawn(command: Sequence[str], env: Mapping[str, str], log: Path) -> int:
    # Not subprocess.Popen: its object warns when it is dropped while the child runs, and ours are meant to outlive it.
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawnp(
        command[0],
        list(command),
        env,
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGINT],  # Python ignores the first, a shell's background job the second
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


def _require_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT are no obstacle
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise InfrastructureError(f"{name} needs port {port}, which is taken") from error


def _record(run_dir: Path, name: str) -> Path:
    return run_dir / f"{name}.json"


def http_get(url: str, timeout_s: float = 2.0) -> str | None:
    """The body of a successful answer; None when there is none."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310  our own loopback addresses
            body: bytes = answer.read()
            return body.decode()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None
