"""The `kubectl` command on one cluster."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from infra.programs import run
from infra.report import require_none

POLL_S = 0.5
Resource = dict[str, Any]


class Kubectl:
    """Runs `kubectl` as the user of a kubeconfig file."""

    def __init__(self, program: Path, kubeconfig: Path) -> None:
        self.environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
        self._program = program

    def run(self, *arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `kubectl ARGUMENTS` with `text` as its input. Raises InfrastructureError if it fails and `check` is set."""
        return run([self._program, *arguments], environment=self.environment, text=text, check=check)

    def is_ready(self) -> bool:
        """Whether the API server answers that it is ready."""
        return self.run("get", "--raw", "/readyz", check=False).returncode == 0

    def list(self, kinds: str, namespace: str, selector: str = "") -> list[Resource]:
        """The resources of comma-separated kinds in a namespace."""
        found = self.run("get", kinds, "-n", namespace, "-l", selector, "-o", "json").stdout
        return list(json.loads(found)["items"])

    def create(self, *resources: Resource) -> None:
        """Create resources, or change those that exist."""
        self.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": resources}))

    def apply(self, manifest: str, *options: str) -> str:
        """Apply a manifest on the server's side. Returns what was said. Raises InfrastructureError, also for a warning."""
        applied = self.run("apply", "--server-side", *options, "-f", "-", text=manifest)
        require_none(find_warnings(applied.stderr))
        return applied.stdout


def find_warnings(output: str) -> list[str]:
    """The lines in which kubectl or helm repeat warnings of the API server."""
    return [line for line in output.splitlines() if line.startswith("Warning:") or "warnings.go" in line]


def wait_for_none(find_problems: Callable[[], Iterable[str]], timeout_s: float) -> None:
    """Poll until no problems are left. Raises InfrastructureError with those that are."""
    deadline = time.monotonic() + timeout_s
    while problems := list(find_problems()):
        if time.monotonic() > deadline:
            require_none(problems)
        time.sleep(POLL_S)
