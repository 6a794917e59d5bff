"""A Docker engine and the Compose plugin where the machine has none. Both live in folders of the checkout."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

COMPOSE = "v2.40.3"
PACKAGES = "docker.io iptables mmdebstrap"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
TAIL_CHARACTERS = 2000
# What `iptables-save` says of tables without rules, unless nobody has used them: then it says nothing.
EMPTY_FIREWALL = """*filter
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
COMMIT
"""


class ContainerError(Exception):
    """One line that says what to change."""


class Docker:
    """The `docker` command on one engine: the one that runs on this machine, or one in `folder`."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self.own_engine = False
        self.environment = dict(os.environ)
        self._plugins = root / "var" / "tools" / "docker"

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS` in the checkout. Raises ContainerError with its last lines if it fails and `check` is set."""
        command = ["docker", *map(str, arguments)]
        run = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        if check and run.returncode:
            raise ContainerError(f"failed: {' '.join(command)}\n{(run.stderr + run.stdout)[-TAIL_CHARACTERS:].strip()}")
        return run

    def read(self, *arguments: str | Path) -> str:
        """What `docker ARGUMENTS` prints."""
        return self.run(*arguments).stdout.strip()

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose ARGUMENTS`. Raises ContainerError."""
        return self.run("compose", *arguments)

    def start(self) -> None:
        """Use the engine that runs; otherwise start one of our own, as root. Builds the Compose plugin if it is missing."""
        require("docker")
        if self._socket.exists() or self.run("info", check=False).returncode:
            self._start_engine()
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
        subprocess.run(["iptables-restore"], input=EMPTY_FIREWALL + self._firewall.read_text(), text=True, check=True)
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)
        for path in (self._firewall, self._socket):
            path.unlink(missing_ok=True)
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
            raise ContainerError("no Docker engine runs, and only root can start one: start it, or run this as root")
        require("dockerd")
        require("iptables")
        self.folder.mkdir(parents=True, exist_ok=True)
        socket = f"unix://{self._socket}"
        self.environment["DOCKER_HOST"] = socket
        self.own_engine = True
        if self.run("info", check=False).returncode == 0:
            return
        if not self._firewall.exists():  # dockerd leaves its rules behind
            self._firewall.write_text(subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout)
        places = ["--data-root", str(self.folder / "images"), "--exec-root", str(self.folder / "run")]
        command = ["dockerd", *places, "--pidfile", str(self.folder / "dockerd.pid"), "-H", socket]
        with (self.folder / "dockerd.log").open("w") as log:
            subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.run("info", check=False).returncode:
            if time.monotonic() > deadline:
                raise ContainerError(f"dockerd did not start: see {log.name}")
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
            run_checked(["go", "mod", "init", "local/compose"], module, variables)
        run_checked(["go", "get", "-tool", f"{package}/cmd@{COMPOSE}"], module, variables)
        built = plugins / "docker-compose"
        run_checked(["go", "build", "-trimpath", f"-ldflags={version}", "-o", built, f"{package}/cmd"], module, variables)


def require(program: str, package: str = PACKAGES) -> None:
    """Raise ContainerError if a program is not installed."""
    if not shutil.which(program):
        raise ContainerError(f"{program} is not installed: install {package}")


def run_checked(command: Sequence[str | Path], folder: Path, environment: dict[str, str] | None = None) -> None:
    """Run a command in a folder. Raises ContainerError with its last lines if it fails."""
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ContainerError(f"failed: {' '.join(map(str, command))}\n{(run.stderr + run.stdout)[-TAIL_CHARACTERS:].strip()}")


def stop_process(pid: int) -> None:
    """End a process that another one started, and wait until it is gone."""
    os.kill(pid, 15)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while Path(f"/proc/{pid}/status").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        if time.monotonic() > deadline:
            raise ContainerError(f"dockerd (process {pid}) does not stop")
        time.sleep(0.5)


def unmount_below(folder: Path) -> None:
    """Unmount what an engine left mounted in a folder, the innermost first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(str(folder))), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False)
