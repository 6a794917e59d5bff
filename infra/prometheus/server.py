"""Prometheus as a local process, and queries to it."""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.process import LOOPBACK, Process, http_get, start, wait_until
from reaseq.errors import InfrastructureError

RULES = Path(__file__).with_name("rules.yml")
READY_TIMEOUT_S = 30.0


def start_prometheus(
    run_dir: Path, port: int, jobs: Mapping[str, Sequence[str]], rules: Path = RULES, interval: str = "15s"
) -> Process:
    """Start Prometheus on loopback `port`; `jobs` maps job names to addresses (host:port). Returns once it is ready."""
    config = run_dir / "prometheus.yml"
    run_dir.mkdir(parents=True, exist_ok=True)
    scraped = [{"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()]
    every = {"scrape_interval": interval, "evaluation_interval": interval}
    config.write_text(json.dumps({"global": every, "rule_files": [str(rules.resolve())], "scrape_configs": scraped}))
    command = ["prometheus", f"--config.file={config.resolve()}", f"--storage.tsdb.path={(run_dir / 'tsdb').resolve()}"]
    server = start(run_dir, "prometheus", [*command, f"--web.listen-address={LOOPBACK}:{port}"], ports=(port,))
    wait_until(lambda: http_get(f"{_url(server)}/-/ready") is not None, READY_TIMEOUT_S, "Prometheus", server)
    return server


def query(server: Process, expression: str) -> list[dict[str, Any]]:
    """The current series of a PromQL expression. Raises InfrastructureError if Prometheus rejects it."""
    found: list[dict[str, Any]] = _get(server, f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
    return found


def firing(server: Process) -> set[str]:
    """Names of the firing alerts."""
    return {alert["labels"]["alertname"] for alert in _get(server, "alerts")["alerts"] if alert["state"] == "firing"}


def _get(server: Process, path: str) -> dict[str, Any]:
    url = f"{_url(server)}/api/v1/{path}"
    answer = http_get(url)
    if answer is None:
        raise InfrastructureError(f"Prometheus did not answer {url}")
    data: dict[str, Any] = json.loads(answer)["data"]
    return data


def _url(server: Process) -> str:
    return f"http://{LOOPBACK}:{server.ports[0]}"
