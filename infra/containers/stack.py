"""The system of docker-compose.yml on an engine: image, models, start, stop."""

import json
import time
from dataclasses import dataclass
from typing import Any

from infra.containers.engine import Docker
from reaseq.errors import InfrastructureError

PROFILE = ("--profile", "core")
START_TIMEOUT_S = 600
STATUS_CODE = """
from reaseq.settings import load_settings
from streams.operations.status import topics_status
print({topic.name: topic.records for topic in topics_status(load_settings())})
"""


@dataclass(frozen=True)
class Container:
    """A container of the system, as the engine describes it."""

    name: str
    service: str
    facts: dict[str, Any]

    @property
    def pid(self) -> int:
        """The process id of its first process, on the host."""
        return int(self.facts["State"]["Pid"])

    @property
    def state(self) -> str:
        """Its health, or its status if it has no health check."""
        state = self.facts["State"]
        return str(state.get("Health", {}).get("Status") or state["Status"])

    @property
    def started_at(self) -> str:
        """When its process started."""
        return str(self.facts["State"]["StartedAt"])


class Stack:
    """Docker Compose's project in a checkout."""

    def __init__(self, docker: Docker) -> None:
        self.docker = docker
        services = json.loads(docker.read("compose", *PROFILE, "config", "--format", "json"))["services"]
        self.image = str(services["ranker"]["image"])

    def up(self) -> None:
        """Start everything and wait until it is healthy."""
        self.docker.compose(*PROFILE, "up", "--wait", "--wait-timeout", str(START_TIMEOUT_S), "--no-build")

    def down(self, volumes: bool = False) -> None:
        """Stop and remove the containers; with `volumes`, also the state."""
        self.docker.compose(*PROFILE, "down", *(["--volumes"] if volumes else []))

    def reaseq(self, *arguments: str) -> str:
        """Run a command in a container of its own, next to the system, and return what it prints."""
        return self.docker.read("compose", "run", "--rm", "-T", "--entrypoint", "reaseq", "smoke", *arguments)

    def smoke(self) -> str:
        """Send an item and an event, and rank with them."""
        return self.docker.read("compose", "run", "--rm", "-T", "smoke")

    def contents(self) -> str:
        """The number of records in each topic and of keys in Redis."""
        topics = self.docker.read("compose", "run", "--rm", "-T", "--entrypoint", "python", "smoke", "-c", STATUS_CODE)
        return f"topics {topics}, Redis {self.docker.read('compose', 'exec', '-T', 'redis', 'redis-cli', 'dbsize')}"

    def containers(self) -> list[Container]:
        """The running containers, by name."""
        ids = self.docker.read("compose", *PROFILE, "ps", "-q").split()
        found = json.loads(self.docker.read("inspect", *ids)) if ids else []
        containers = [
            Container(facts["Name"].lstrip("/"), facts["Config"]["Labels"]["com.docker.compose.service"], facts)
            for facts in found
        ]
        return sorted(containers, key=lambda container: container.name)

    def wait_until_healthy(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until all containers are healthy. Raises InfrastructureError with those that are not."""
        deadline = time.monotonic() + timeout_s
        while sick := [f"{found.name} {found.state}" for found in self.containers() if found.state != "healthy"]:
            if time.monotonic() > deadline:
                raise InfrastructureError(f"not healthy after {timeout_s:.0f} s: {', '.join(sick)}")
            time.sleep(1)

    def find(self, name: str) -> Container:
        """A running container. Raises InfrastructureError if it does not run."""
        for container in self.containers():
            if container.name == name:
                return container
        raise InfrastructureError(f"container {name} does not run")

    def logs(self, container: str) -> list[str]:
        """All that a container has written."""
        run = self.docker.run("logs", container)
        return (run.stdout + run.stderr).splitlines()
