"""`make containers`: brings the system up, kills each of its processes, takes it down and up again, and removes everything."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator

from infra.containers.engine import Docker
from infra.containers.images import build_image, image_bytes, provide_base_images
from infra.containers.models import train_models
from infra.containers.passwords import write_passwords
from infra.containers.stack import Container, Stack
from infra.report import Report, require_none
from reaseq.errors import InfrastructureError

OURS = {"worker", "reasoner", "ranker"}  # the services that run the project's image
WRITABLE_ROOT = {"kafka"}  # its image writes its configuration there
POLL_S = 0.5
RESTART_TIMEOUT_S = 300.0


def prepare(docker: Docker, report: Report) -> Stack:
    """Engine, base images, passwords, image and models. The system can start then."""
    with report.step("engine and Compose plugin") as result:
        docker.start()
        docker.provide_compose()
        engine = docker.read("version", "-f", "{{.Server.Version}}")
        result.append(f"{'an own' if docker.own_engine else 'the running'} engine {engine}")
    with report.step("base images") as result:
        result.append(provide_base_images(docker))
    with report.step("passwords in .env") as result:
        result.append(f"new: {', '.join(write_passwords(docker.root / '.env')) or 'none'}")
    stack = Stack(docker)
    with report.step("image") as result:
        build_image(docker, stack.image)
        base = image_bytes(docker, "python:3.11-slim")
        size = image_bytes(docker, stack.image)
        result.append(f"{size / 1e9:.2f} GB, of which {base / 1e9:.2f} GB the base image")
    with report.step("models") as result:
        result.append(train_models(docker, stack.image, docker.root / "var"))
    return stack


def check(docker: Docker, report: Report) -> None:
    """The whole check. Raises InfrastructureError at the first thing that does not hold; removes everything in any case."""
    try:
        stack = prepare(docker, report)
        try:
            check_stack(stack, report)
        finally:
            with report.step("containers and volumes removed"):
                stack.down(volumes=True)
    finally:
        with report.step("engine removed" if docker.own_engine else "engine left as it was"):
            docker.stop(remove=True)


def check_stack(stack: Stack, report: Report) -> None:
    """What has to hold of a system that starts on empty volumes."""
    with report.step("up, until all are healthy") as result:
        stack.up()
        result.append(", ".join(container.name for container in stack.containers()))
    with report.step("smoke"):
        stack.smoke()
    with report.step("confinement: no capabilities, no new privileges, read-only roots") as result:
        require_none(flaw for container in stack.containers() for flaw in find_flaws(container))
        result.append("all containers; Kafka's root is writable")
    with report.step("a client without a password") as result:
        refused = stack.docker.run("compose", "exec", "-T", "-e", "REDISCLI_AUTH=", "redis", "redis-cli", "ping").stdout
        require_none([] if "NOAUTH" in refused else [f"Redis answers: {refused}"])
        result.append("refused by Redis")
    for container in stack.containers():
        with report.step(f"kill -9 {container.name}") as result:
            result.append(kill_and_wait(stack, container.name))
    with report.step("smoke after the kills"):
        stack.smoke()
    with report.step("features reconcile"):
        stack.reaseq("features", "reconcile")
    with report.step("logs are JSON lines") as result:
        logs = {container.name: stack.logs(container.name) for container in stack.containers() if container.service in OURS}
        require_none(f"{name}: {line}" for name, lines in logs.items() for line in lines if not is_json(line))
        result.append(f"{sum(map(len, logs.values()))} lines")
    with report.step("down and up: state is kept") as result:
        before = stack.contents()
        stack.down()
        stack.up()
        after = stack.contents()
        require_none([] if before == after else [f"before: {before}", f"after: {after}"])
        result.append(after)
    with report.step("smoke and features reconcile"):
        stack.smoke()
        stack.reaseq("features", "reconcile")


def find_flaws(container: Container) -> Iterator[str]:
    """What a container is allowed and does not need."""
    host = container.facts["HostConfig"]
    rules: dict[str, Callable[[], bool]] = {
        "keeps capabilities": lambda: host["CapDrop"] != ["ALL"] or bool(host["CapAdd"]),
        "may gain privileges": lambda: "no-new-privileges:true" not in (host["SecurityOpt"] or []),
        "may write to its root": lambda: not host["ReadonlyRootfs"] and container.service not in WRITABLE_ROOT,
        "runs as root": lambda: container.facts["Config"]["User"].split(":")[0] in ("", "0", "root"),
        "publishes a port beyond loopback": lambda: any(
            binding["HostIp"] != "127.0.0.1" for bindings in (host["PortBindings"] or {}).values() for binding in bindings
        ),
    }
    return (f"{container.name} {flaw}" for flaw, holds in rules.items() if holds())


def kill_and_wait(stack: Stack, name: str) -> str:
    """Kill a container's process, and wait until it was restarted and all containers are healthy."""
    container = stack.find(name)
    others = {other.name: other.started_at for other in stack.containers() if other.name != name}
    started = time.monotonic()
    os.kill(container.pid, signal.SIGKILL)
    while (again := stack.find(name)).started_at == container.started_at or again.state != "healthy":
        if time.monotonic() - started > RESTART_TIMEOUT_S:
            raise InfrastructureError(f"{name} is {again.state} {RESTART_TIMEOUT_S:.0f} s after it was killed")
        time.sleep(POLL_S)
    healthy_s = time.monotonic() - started
    stack.wait_until_healthy()
    restarted = [other.name for other in stack.containers() if others.get(other.name, other.started_at) != other.started_at]
    return f"healthy again after {healthy_s:.0f} s; restarted with it: {', '.join(restarted) or 'none'}"


def is_json(line: str) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
