"""The whole system on one machine without containers: broker, Redis, workers and the ranking service as processes."""

import json
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from infra import process
from infra.kafka.broker import install, start_broker, start_cluster
from infra.redis import start_redis
from infra.vllm.server import start_vllm
from reaseq.errors import InfrastructureError
from reaseq.settings import Settings

READY_TIMEOUT_S = 180.0  # a worker imports torch, transformers and Feast before it is ready: half a minute on two slow cores
STOP_ORDER = ("prometheus", "ranker", "worker", "reasoner", "vllm", "redis", "kafka")


def start_services(settings: Settings) -> None:
    """Start the broker, or the brokers, and Redis that the settings point to."""
    run_dir, state = settings.run_dir, settings.state_dir.resolve()
    ports = [_port(address) for address in settings.kafka.bootstrap_servers.split(",")]
    data, libs, limit_bytes = state / "kafka" / "data", install(state), settings.kafka.max_message_bytes + 64 * 1024
    if len(ports) == 1:
        start_broker(run_dir, data, libs, ports[0], max_message_bytes=limit_bytes)
    else:
        start_cluster(run_dir, data, libs, ports, max_message_bytes=limit_bytes)
    start_redis(run_dir, state / "redis", _port(settings.store.redis_url.get_secret_value()))


def start_worker(settings: Settings, name: str, role: str = "all") -> process.Process:
    """Start one worker of a role's group; does not wait for it."""
    port = process.free_port()
    env = {"REASEQ_WORKER__METRICS_PORT": str(port)}
    command = _reaseq("worker", "--name", name, "--role", role)
    return process.start(settings.run_dir, name, command, env=environment(settings) | env, ports=(port,))


def start_ranker(settings: Settings, workers: Sequence[process.Process] = ()) -> process.Process:
    """Start the ranking service, whose console asks these workers how they are; does not wait for it."""
    port, urls = settings.service.port, [f"http://{process.LOOPBACK}:{worker.ports[0]}" for worker in workers]
    env = environment(settings) | {"REASEQ_SERVICE__WORKER_URLS": json.dumps(urls)}
    return process.start(settings.run_dir, "ranker", _reaseq("serve"), env=env, ports=(port,))


def start_model(settings: Settings, model: str) -> None:
    """Start vLLM with a model, wait until it serves, and point the settings to it."""
    port = process.free_port()
    _, name = start_vllm(settings.state_dir.resolve(), settings.run_dir, model, port)
    settings.knowledge.llm.base_url = f"http://{process.LOOPBACK}:{port}/v1"
    settings.knowledge.llm.model = name


def wait_ready(started: process.Process) -> None:
    """Wait until a worker or the ranking service says that it is ready."""
    url = f"http://{process.LOOPBACK}:{started.ports[0]}/readyz"
    process.wait_until(lambda: process.http_get(url) is not None, READY_TIMEOUT_S, f"{started.name} to be ready", started)


def stop_all(settings: Settings) -> list[str]:
    """Stop what runs, readers before what they read from; returns the names."""
    names = [running.name for running in process.running(settings.run_dir)]
    names.sort(key=lambda name: STOP_ORDER.index(name.split("-")[0]))
    for name in names:
        process.stop(settings.run_dir, name)
    return names


def _reaseq(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "reaseq", *arguments]


def environment(settings: Settings) -> dict[str, str]:
    """The settings as environment, so that every process sees the same tree."""
    env = {"REASEQ_STATE_DIR": str(settings.state_dir.resolve())}
    for group in type(settings).model_fields:
        if group != "state_dir":
            env |= _variables(f"REASEQ_{group}".upper(), getattr(settings, group))
    return env


def _variables(prefix: str, value: object) -> dict[str, str]:
    match value:
        case BaseModel():
            inner = (_variables(f"{prefix}__{name}".upper(), getattr(value, name)) for name in type(value).model_fields)
            return {name: text for variables in inner for name, text in variables.items()}
        case SecretStr():
            return {prefix: value.get_secret_value()}
        case dict() | list():
            return {prefix: json.dumps(value, default=SecretStr.get_secret_value)}
        case None:
            return {}
        case _:
            return {prefix: str(value)}


def _port(address: str) -> int:
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.hostname not in (process.LOOPBACK, "localhost") or parts.port is None:
        raise InfrastructureError(
            f"`reaseq up` starts services on this machine alone, and {parts.hostname}:{parts.port} is not"
        )
    return parts.port
