"""A Docker engine and the Compose plugin where the machine has none. Both live in folders of the checkout."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from infra import firewall
from infra.programs import require, run, stop_process, unmount_below
from reaseq.errors import InfrastructureError

COMPOSE = "v2.40.3"
PACKAGES = "docker.io iptables mmdebstrap"
START_TIMEOUT_S = 60.0


class Docker:
    """The `docker` command on one engine: the one that runs on this machine, or one in `folder`."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self.own_engine = False
        self.environment = dict(os.environ)
        self._plugins = root / "var" / "tools" / "docker"

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS` in the checkout. Raises InfrastructureError if it fails and `check` is set."""
        return run(["docker", *arguments], self.root, self.environment, check=check)

    def read(self, *arguments: str | Path) -> str:
        """What `docker ARGUMENTS` prints."""
        return self.run(*arguments).stdout.strip()

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose ARGUMENTS`. Raises InfrastructureError."""
        return self.run("compose", *arguments)

    def start(self) -> None:
        """Use the engine that runs; otherwise start one of our own, as root."""
        require("docker", PACKAGES)
        if self._socket.exists() or self.run("info", check=False).returncode:
            self._start_engine()

    def provide_compose(self) -> None:
        """Build the Compose plugin if it is missing."""
        if self.run("compose", "version", check=False).returncode:
            self.environment["DOCKER_CONFIG"] = str(self._plugins)
            if not (self._plugins / "cli-plugins" / "docker-compose").exists():
                self._build_compose()

    def stop(self, remove: bool) -> None:
        """Stop an engine of our own, and undo its firewall rules. With `remove`, delete its folder: images and volumes."""
        if not self.own_engine:
            return
        stop_process(int((self.folder / "dockerd.pid").read_text()))
        unmount_below(self.folder)
        firewall.restore(self._firewall)
        run(["ip", "link", "delete", "docker0"], check=False)
        self._socket.unlink(missing_ok=True)
        if remove:
            shutil.rmtree(self.folder)

    @property
    def _firewall(self) -> Path:
        return self.folder / "firewall"

    @property
    def _socket(self) -> Path:
        return self.folder / "docker.sock"

    def _start_engine(self) -> None:
        if os.geteuid():
            raise InfrastructureError("no Docker engine runs, and only root can start one: start it, or run this as root")
        for program in ("dockerd", "iptables"):
            require(program, PACKAGES)
        self.folder.mkdir(parents=True, exist_ok=True)
        socket = f"unix://{self._socket}"
        self.environment["DOCKER_HOST"] = socket
        self.own_engine = True
        if self.run("info", check=False).returncode == 0:
            return
        firewall.save(self._firewall)  # dockerd leaves its rules behind
        places = ["--data-root", str(self.folder / "images"), "--exec-root", str(self.folder / "run")]
        command = ["dockerd", *places, "--pidfile", str(self.folder / "dockerd.pid"), "-H", socket]
        with (self.folder / "dockerd.log").open("w") as log:
            subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.run("info", check=False).returncode:
            if time.monotonic() > deadline:
                raise InfrastructureError(f"dockerd did not start: see {log.name}")
            time.sleep(0.5)

    def _build_compose(self) -> None:
        """Build the plugin from its Go module, where the `docker` command searches for it."""
        require("go", "a Go toolchain, or the package docker-compose-plugin")
        module, plugins = self._plugins / "module", self._plugins / "cli-plugins"
        for folder in (module, plugins):
            folder.mkdir(parents=True, exist_ok=True)
        package = "github.com/docker/compose/v2"
        version = f"-s -w -X {package}/internal.Version={COMPOSE}"
        variables = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
        if not (module / "go.mod").exists():
            run(["go", "mod", "init", "local/compose"], module, variables)
        run(["go", "get", "-tool", f"{package}/cmd@{COMPOSE}"], module, variables)
        built = plugins / "docker-compose"
        run(["go", "build", "-trimpath", f"-ldflags={version}", "-o", built, f"{package}/cmd"], module, variables)
