"""The whole system on one machine without containers: brokers, Redis, workers and the ranking service as processes."""

import json
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from demo import ANSWERS, VOCABULARY
from infra import process
from infra.kafka.broker import install, start_broker, start_cluster
from infra.redis import start_redis
from infra.vllm.server import start_vllm
from reaseq.artifacts import is_published
from reaseq.errors import InfrastructureError
from reaseq.settings import Settings, recorded

READY_TIMEOUT_S = 180.0  # importing torch, transformers and Feast takes half a minute on two slow cores
STOP_ORDER = ("prometheus", "ranker", "worker", "reasoner", "vllm", "redis", "kafka")


def start_services(settings: Settings) -> None:
    """Start the brokers and Redis at the addresses in the settings, and record these for other commands.

    Raises InfrastructureError if an address is not on loopback.
    """
    run_dir, state = settings.run_dir, settings.state_dir.resolve()
    ports = [_port(address) for address in settings.kafka.bootstrap_servers.split(",")]
    data, libs, limit_bytes = state / "kafka" / "data", install(state), settings.kafka.record_limit_bytes
    if len(ports) == 1:
        start_broker(run_dir, data, libs, ports[0], max_message_bytes=limit_bytes)
    else:
        start_cluster(run_dir, data, libs, ports, max_message_bytes=limit_bytes)
    for number, url in enumerate(settings.store.redis_urls):
        name = f"redis-{number + 1}" if number else "redis"
        start_redis(run_dir, state / name, _port(url), name=name)
    recorded.record(settings, state)


def start_worker(settings: Settings, name: str, role: str = "all") -> process.Process:
    """Start a worker; returns before it is ready."""
    port = process.free_port()
    env = {"REASEQ_WORKER__METRICS_PORT": str(port)}
    command = _reaseq("worker", "--name", name, "--role", role)
    return process.start(settings.run_dir, name, command, env=environment(settings) | env, ports=(port,))


def start_ranker(settings: Settings, workers: Sequence[process.Process] = ()) -> process.Process:
    """Start the ranking service, whose console shows `workers`; returns before it is ready."""
    port, urls = settings.service.port, [f"http://{process.LOOPBACK}:{worker.ports[0]}" for worker in workers]
    env = environment(settings) | {"REASEQ_SERVICE__WORKER_URLS": json.dumps(urls)}
    return process.start(settings.run_dir, "ranker", _reaseq("serve"), env=env, ports=(port,))


def start_model(settings: Settings, model: str) -> None:
    """Start vLLM with `model`, wait until it is ready, and set it as the language model in `settings`."""
    port = process.free_port()
    _, name = start_vllm(settings.state_dir.resolve(), settings.run_dir, model, port)
    settings.knowledge.llm.base_url = f"http://{process.LOOPBACK}:{port}/v1"
    settings.knowledge.llm.model = name
    recorded.record(settings, settings.state_dir)


def start_applications(settings: Settings, workers: int, reasoner: bool) -> bool:
    """Start workers and, if a ranker is published, the ranking service. Returns whether there is a service, once all are ready.

    With `reasoner`, a separate worker reasons with the language model. Without, all workers reason, and the sample's recorded
    answers are used unless others are configured.
    """
    ranks = is_published(settings.models_dir, "ranker")
    if not reasoner and settings.knowledge.vocabulary == VOCABULARY:
        settings.knowledge.recorded_file = settings.knowledge.recorded_file or ANSWERS
    role = "stream" if reasoner else "all"
    started = [start_worker(settings, f"worker-{number}", role) for number in range(1, workers + 1)]
    if reasoner:
        started.append(start_worker(settings, "reasoner", "reasoning"))
    if ranks:
        started.append(start_ranker(settings, started))
    for application in started:
        wait_ready(application)
    return ranks


def scrape_workers(running: Sequence[process.Process]) -> list[str]:
    """The metrics of the workers among the running processes, in Prometheus text format; empty if a worker does not respond."""
    workers = [started for started in running if started.name.startswith(("worker", "reasoner"))]
    return [process.http_get(f"http://{process.LOOPBACK}:{worker.ports[0]}/metrics") or "" for worker in workers]


def wait_ready(started: process.Process) -> None:
    """Wait until `/readyz` of a worker or of the ranking service succeeds."""
    url = f"http://{process.LOOPBACK}:{started.ports[0]}/readyz"
    process.wait_until(lambda: process.http_get(url) is not None, READY_TIMEOUT_S, started.name, started)


def stop_all(settings: Settings) -> list[str]:
    """Stop all running processes, consumers before the services they use; returns the names."""
    names = [running.name for running in process.running(settings.run_dir)]
    names.sort(key=lambda name: STOP_ORDER.index(name.split("-")[0]))
    for name in names:
        process.stop(settings.run_dir, name)
    recorded.forget(settings.state_dir)
    return names


def _reaseq(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "reaseq", *arguments]


def environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, for child processes."""
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
            f"cannot start a service at {address!r}: `reaseq up` needs a loopback address with a port, such as 127.0.0.1:9092"
        )
    return parts.port
