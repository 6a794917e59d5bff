"""Runs the job of the history stage in other stream engines, as their users would write it: see `benchmarks.peers`.

Each engine folds the same events by the same rule into a history of each user in Redis, with its own state, its own recovery
and a commit each second. They run in an environment of their own: their dependencies are not ours. Neither produces the
histories to a topic, and neither compares before it sets; so they do less than the history stage.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.delivery_side import DeliverySide, Report
from infra.environments import python_of
from reaseq.settings import Settings

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "stream-peers.txt"
ENGINES = ("quix", "bytewax")
TIMEOUT_S = 120.0
POLL_S = 0.2


def run(engine: str, settings: Settings, group: str, records: int) -> DeliverySide:
    """Run an engine on the backlog until it has processed `records`. Raises RuntimeError if it ends or takes too long."""
    redis_port = urlsplit(settings.store.redis_url.get_secret_value()).port
    with tempfile.TemporaryDirectory(prefix="reaseq-peer-") as folder:
        reports, log = Path(folder) / "reports", Path(folder) / "log"
        reports.touch()
        environment = {
            "PEER_BROKERS": settings.kafka.bootstrap_servers,
            "PEER_REDIS_PORT": str(redis_port),
            "PEER_GROUP": group,
            "PEER_STATE": str(Path(folder) / "state"),
            "PEER_REPORTS": str(reports),
            "PEER_LIMIT": str(settings.behavior.history_limit_events),
        }
        python = python_of(LOCK, ROOT / "var" / "peers")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [python, "-m", f"peers.{engine}_histories"],
                cwd=Path(__file__).parent,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )
        try:
            return _wait_for(process, reports, log, records)
        finally:
            process.kill()
            process.wait()


def _wait_for(process: "subprocess.Popen[bytes]", reports: Path, log: Path, records: int) -> DeliverySide:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        lines = reports.read_bytes().split(b"\n")[:-1]  # what follows the last line end is not complete
        side = DeliverySide([msgspec.json.decode(line, type=Report) for line in lines])
        if side.records >= records:
            return side
        time.sleep(POLL_S)
    sys.stderr.write(log.read_text(errors="replace")[-2000:])
    raise RuntimeError(f"{process.args!r} did not process {records} records")
