"""Forks workers from a process that has imported everything: real processes that start in seconds, not half a minute.

Reads one line of JSON per worker from standard input, and answers with the process id.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import features  # noqa: F401  before Feast
import streams.worker
from reaseq.logs import configure_logs
from reaseq.settings import Settings
from tests.newer_release import become_newer_release

_NOW = time.time


def main() -> None:
    """Fork until standard input is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # reap children automatically
    for line in sys.stdin:
        arguments = json.loads(line)
        child = os.fork()
        if not child:
            _run_worker(**arguments)
        os.setpgid(child, child)  # the child does so too, but may be killed before
        print(child, flush=True)


def _run_worker(name: str, log: str, env: dict[str, str], clock_ahead_s: float, newer: bool) -> NoReturn:
    os.setpgid(0, 0)
    output = os.open(Path(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(env)
    if clock_ahead_s:
        setattr(time, "time", lambda: _NOW() + clock_ahead_s)  # noqa: B010  mypy rejects a plain assignment
    if newer:
        become_newer_release()
    configure_logs(name)
    settings: Any = Settings()
    settings.store.profile = "production"
    streams.worker.run_worker(settings, name, "all")
    os._exit(0)


if __name__ == "__main__":
    main()
